// C = A @ B for three matrices in CSR, row by row.
//
//   1  before[e]: how many products the entries of A before e have        (scan of the lengths of rows of B)
//   2  rows of C by their number of products, into bins; the host reads how many there are in each, and what was found
//   3  count: how many columns each row has
//   4  rows of C by their number of columns, into bins; the host reads these and their sum, and the caller allocates C
//   5  fill: columns and sums
//
// Up to 32 products: a warp sorts them by column in registers, and adds equal columns up in the order of the entries.
//
// More: a block has a bit for each column in shared memory. Counting sets them, in any order. Filling sets them again;
// how many bits are set before a column's is where it stands in the row, so columns come out sorted and nothing is
// searched or compared. Each warp walks its part of the row of A, 32 products at a time, and adds them to sums of its
// own; then the warps' sums are added. So a sum is formed of the products of each part in the order of the entries of
// A, then of the parts in order, and how many parts there are depends on the row's number of columns alone. Products in
// one step go to different columns when they are of one row of B whose columns increase, as the first kernel finds out;
// where they may not, lanes that meet take turns. Where the sums of a row are more than fit, blocks share them out, and
// each walks all products. Neither memory nor time knows how many products meet in a column.
//
// More columns of B than there are bits for: the products are sorted by column, of which a product's number is the low
// half, so that equal columns lie in the order of the entries of A. They are formed when they are filled in alone.
//
//   up to 8192          a block, keys and products in shared memory, a bitonic network of which a warp does what it can
//                       in registers; keys of 32 bits where columns allow it
//   more                keys of many rows in global memory, sorted by (row, column) at once by sort.h, in batches of
//                       bounded size
//
// Bound: the columns and values of B out of L2, 4 bytes a product and walk, three walks, and 4 for its value.
#include "spgemm.cuh"

#include <algorithm>
#include <limits>
#include <type_traits>
#include <vector>

#include "sort.h"

namespace myops {
namespace {

constexpr int kBins = 5;
constexpr int kHugeBin = kBins - 1;
constexpr int kNumberBits = 13;  // of a product in a row that a block sorts
constexpr int64_t kWarpProducts = kWarpSize;
constexpr int64_t kBatch = 1 << 24;  // products of long rows at a time, 48 bytes each, one row at least

// Products that the rows of a bin have at most.
struct Capacities {
  int64_t of[kBins];
};

// What every kernel reads, and where results go.
struct Product {
  Csr A, B;
  const void *a, *b;
  DType type;
  const int64_t* before;  // of nnz(A) + 1 entries
  int64_t* lengths;       // of the rows of C; then, summed up, where each begins
  bool wide;
  bool increasing;     // the columns of every row of B, so that none is repeated
  void *col, *values;  // of C

  __device__ __forceinline__ Range row(int64_t i) const {
    return {load_index(A.crow, A.wide, i), load_index(A.crow, A.wide, i + 1)};
  }
  __device__ __forceinline__ int64_t products(Range entries) const {
    return before[entries.end] - before[entries.begin];
  }

  // The entries of A and B that make product `number` of a row of C.
  __device__ __forceinline__ void find(Range entries, int64_t number, int64_t& e, int64_t& n) const {
    const int64_t all = before[entries.begin] + number;
    e = entries.begin +
        lower_bound(entries.size() - 1, all + 1, [&](int64_t i) { return before[entries.begin + 1 + i]; });
    n = load_index(B.crow, B.wide, load_index(A.col, A.wide, e)) + all - before[e];
  }
  template <class Acc>
  __device__ __forceinline__ Acc value(int64_t e, int64_t n) const {
    return times(load_value<Acc>(type, a, e), load_value<Acc>(type, b, n));
  }
  template <class Acc>
  __device__ __forceinline__ void write(int64_t at, int64_t column, Acc sum) const {
    store_index(col, wide, at, column);
    store_value(type, values, at, sum);
  }
};

// ---- Before sorting -------------------------------------------------------------------------------------------------

// What the host reads after steps 2 and 4.
struct Bins {
  unsigned long long rows[kBins];  // with products at all
  unsigned long long unordered;    // not 0: a row of B has columns that do not increase
  unsigned long long findings;
  int64_t nnz;
};

__global__ void __launch_bounds__(kThreads) check_operands(const Csr A, const Csr B, Bins* bins, unsigned* findings) {
  const int64_t i = thread_in_grid();
  check_item(A, i, findings);
  check_item(B, i, findings);
  if (i == 0 || i >= B.nnz || load_index(B.col, B.wide, i - 1) < load_index(B.col, B.wide, i)) return;
  const int64_t row = lower_bound(B.rows, i, [&](int64_t r) { return load_index(B.crow, B.wide, r); });
  if (load_index(B.crow, B.wide, row) != i) atomicOr(&bins->unordered, 1ull);  // no row begins here
}

// Of a bad pattern any number: it is found before that matters.
struct ProductsOfEntry {
  Csr A, B;

  __device__ __forceinline__ int64_t operator()(int64_t e) const {
    const int64_t k = load_index(A.col, A.wide, e);
    return inside(k, B.rows) ? load_index(B.crow, B.wide, k + 1) - load_index(B.crow, B.wide, k) : 0;
  }
};

// By the number of products, or of columns where that is known and the row has more products than a warp takes.
// lists[bin]: room for all rows in each.
template <bool kColumns>
__global__ void __launch_bounds__(kThreads)
    sort_into_bins(const __grid_constant__ Product p, const __grid_constant__ Capacities capacity, Bins* bins,
                   int64_t* lists, unsigned* findings) {
  struct Shared {
    unsigned count[kBins];
    int64_t first[kBins];
  };
  Shared& shared = shared_storage<Shared>();
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < kBins) shared_store(&shared.count[thread], 0u);
  __syncthreads();
  const int64_t i = thread_in_grid();
  int64_t size = i < p.A.rows ? p.products(row_range(p.A, i, findings)) : 0;
  if (kColumns) {
    size = size > kWarpProducts ? p.lengths[i + 1] - p.lengths[i] : 0;
    if (i == 0) bins->nnz = p.lengths[p.A.rows];
  } else {
    if (i < p.A.rows && size == 0) p.lengths[i] = 0;
    if (i == 0) bins->findings = *findings;  // of the kernels before
  }
  int bin = 0;
  while (size > capacity.of[bin]) ++bin;
  const unsigned place = size > 0 ? atomicAdd(&shared.count[bin], 1u) : 0;
  __syncthreads();
  if (thread < kBins)
    if (const unsigned count = shared_load(&shared.count[thread]); count > 0)
      shared_store(&shared.first[thread],
                   static_cast<int64_t>(atomicAdd(&bins->rows[thread], static_cast<unsigned long long>(count))));
  __syncthreads();
  if (size > 0) lists[bin * p.A.rows + shared_load(&shared.first[bin]) + place] = i;
}

// ---- Up to 32 products: a warp --------------------------------------------------------------------------------------

template <class T>
__device__ __forceinline__ T shuffle_from(T x, int lane) {
  return __shfl_sync(kAllLanes, x, lane);
}
template <class T>
__device__ __forceinline__ Complex<T> shuffle_from(Complex<T> x, int lane) {
  return {shuffle_from(x.re, lane), shuffle_from(x.im, lane)};
}

template <class Acc, bool kFill>
__global__ void __launch_bounds__(kThreads)
    warp_rows(const __grid_constant__ Product p, const int64_t* list, int64_t rows) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int64_t item = thread_in_grid() / kWarpSize;
  if (item >= rows) return;  // whole warps
  const int64_t i = list[item];
  const Range entries = p.row(i);
  const int count = static_cast<int>(p.products(entries));
  uint64_t key = ~uint64_t(0);
  Acc product{};
  if (lane < count) {
    int64_t e, n;
    p.find(entries, lane, e, n);
    key = static_cast<uint64_t>(load_index(p.B.col, p.B.wide, n)) << 5 | lane;
    if constexpr (kFill) product = p.template value<Acc>(e, n);
  }
  for (int size = 2; size <= kWarpSize; size *= 2)
    for (int step = size / 2; step > 0; step /= 2) {
      const uint64_t other = shuffle_xor(key, step);
      const bool lower = (lane & step) == 0, ascending = (lane & size) == 0;
      key = (key < other) == (lower == ascending) ? key : other;
    }
  const uint64_t column = key >> 5, left = __shfl_up_sync(kAllLanes, column, 1);
  const bool head = lane < count && (lane == 0 || column != left);
  const unsigned heads = __ballot_sync(kAllLanes, head);
  if (!kFill) {
    if (lane == 0) p.lengths[i] = __popc(heads);
    return;
  }
  // A head adds up the products behind it, up to the next head; all lanes take part as long as one of them has more.
  Acc sum = shuffle_from(product, static_cast<int>(key & 31));
  const Acc mine = sum;
  const unsigned behind = lane == 31 ? 0 : heads >> (lane + 1);
  const int run = behind == 0 ? count - lane : __ffs(static_cast<int>(behind));
  for (int step = 1; __ballot_sync(kAllLanes, head && step < run) != 0; ++step) {
    const Acc next = shuffle_from(mine, (lane + step) & 31);
    if (head && step < run) sum = plus(sum, next);
  }
  if (head) p.write(p.lengths[i] + __popc(heads & ((1u << lane) - 1)), static_cast<int64_t>(column), sum);
}

// ---- More: a bit for each column ------------------------------------------------------------------------------------

constexpr int64_t kMostMarked = 1 << 19;   // columns of B: 96 KB of bits and counts
constexpr int64_t kMostEntries = 1 << 30;  // of B, numbered in 32 bits
constexpr int kSteps = 4;                  // of 32 products, loaded at once
constexpr int kShortRow = 8;               // entries of a row of B, below which on average a step takes several rows
constexpr int kWordBits = 64;              // whose first has its place in the row written down
constexpr int kFillThreads = 256, kCountThreads = 1024;  // of a block, at most

struct None {};
__device__ __forceinline__ None shuffle_from(None, int) { return {}; }

// Walks the products of some entries of a row of A in order, with a whole warp: visit(found, n, factor, alone) gets
// kSteps steps of a product a lane, where found; n is its entry of B, `factor` what `load` gave for its entry of A;
// alone: each step is within one row of B.
template <class Factor, class Load, class Visit>
__device__ __forceinline__ void walk_products(const Product& p, Range entries, const Load& load, const Visit& visit) {
  constexpr int kMuch = 1 << 20;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  for (int64_t first = entries.begin; first < entries.end; first += kWarpSize) {
    int begin = 0, size = 0;  // of the row of B of this lane's entry
    Factor own{};
    if (const int64_t e = first + lane; e < entries.end) {
      const int64_t k = load_index(p.A.col, p.A.wide, e);
      begin = static_cast<int>(load_index(p.B.crow, p.B.wide, k));
      size = static_cast<int>(load_index(p.B.crow, p.B.wide, k + 1)) - begin;
      own = load(e);
    }
    int upto = size < kMuch ? size : kMuch;  // products up to this lane's entry, or too many to matter
    for (int step = 1; step < kWarpSize; step *= 2) {
      const int before = __shfl_up_sync(kAllLanes, upto, step);
      if (lane >= step) upto += before;
    }
    const int total = __shfl_sync(kAllLanes, upto, kWarpSize - 1), start = begin + size - upto;
    const bool alone = total > kShortRow * kWarpSize;
    unsigned left = __ballot_sync(kAllLanes, size > 0);
    int next = 0;  // alone: in a row of B; else of all products
    int row = 0, row_begin = 0, row_size = 0;
    while (alone ? left != 0 || next < row_size : next < total) {
      bool found[kSteps];
      int n[kSteps];
      Factor factor[kSteps];
#pragma unroll
      for (int u = 0; u < kSteps; ++u) {
        if (alone) {
          if (next >= row_size && left != 0) {
            row = __ffs(static_cast<int>(left)) - 1;
            left &= left - 1;
            row_begin = __shfl_sync(kAllLanes, begin, row);
            row_size = __shfl_sync(kAllLanes, size, row);
            next = 0;
          }
          found[u] = next + lane < row_size;
          n[u] = row_begin + next + lane;
          factor[u] = shuffle_from(own, row);
        } else {
          const int number = next + lane;
          int from = 0;  // the lane whose entry it is: as many have no products beyond
#pragma unroll
          for (int step = kWarpSize / 2; step > 0; step /= 2)
            if (__shfl_sync(kAllLanes, upto, from + step - 1) <= number) from += step;
          found[u] = number < total;
          n[u] = __shfl_sync(kAllLanes, start, from) + number;
          factor[u] = shuffle_from(own, from);
        }
        next += kWarpSize;
      }
      visit(found, n, factor, alone);
    }
  }
}

// The part of a row's entries that a warp of the block walks.
__device__ __forceinline__ Range part_of(Range entries) {
  const int64_t warp = threadIdx.x / kWarpSize, warps = blockDim.x / kWarpSize;
  return {entries.begin + entries.size() * warp / warps, entries.begin + entries.size() * (warp + 1) / warps};
}

// A bit for each column, and before every kWordBits how many are set.
struct Columns {
  unsigned* bits;
  int words;  // of kWordBits, an even number

  __device__ __forceinline__ void clear() const {
    for (int i = static_cast<int>(threadIdx.x); i < words / 2; i += static_cast<int>(blockDim.x))
      shared_store(reinterpret_cast<Pack<unsigned, 4>*>(bits) + i, Pack<unsigned, 4>{});
  }
  // Sets the bits of a warp's part of the row; returns how many were set by this thread. A bit is looked at before it
  // is set, as most may be: where another warp sets it at the same time, both set it, and the atomic says who was
  // first.
  __device__ __forceinline__ int mark(const Product& p, Range entries) const {
    int news = 0;
    walk_products<None>(
        p, part_of(entries), [](int64_t) { return None{}; },
        [&](const bool (&found)[kSteps], const int (&n)[kSteps], const None(&)[kSteps], bool) {
          unsigned column[kSteps];
#pragma unroll
          for (int u = 0; u < kSteps; ++u)
            column[u] = found[u] ? static_cast<unsigned>(load_index(p.B.col, p.B.wide, n[u])) : 0;
#pragma unroll
          for (int u = 0; u < kSteps; ++u) {
            unsigned* const word = &bits[column[u] / 32];
            const unsigned bit = 1u << column[u] % 32;
            if (found[u] && (shared_load(word) & bit) == 0 && (atomicOr(word, bit) & bit) == 0) ++news;
          }
        });
    return news;
  }
  __device__ __forceinline__ Pack<unsigned, 2> word(int w) const {
    return shared_load(reinterpret_cast<const Pack<unsigned, 2>*>(bits) + w);
  }
};

inline int64_t column_words(int64_t columns) { return (columns + 2 * kWordBits - 1) / (2 * kWordBits) * 2; }

__global__ void __launch_bounds__(kCountThreads)
    count_columns(const __grid_constant__ Product p, const int64_t* list, int words) {
  BlockSums& sums = shared_storage<BlockSums>();
  const Columns columns{dynamic_shared<unsigned>(), words};
  const int64_t i = list[blockIdx.x];
  columns.clear();
  __syncthreads();
  const int news = columns.mark(p, p.row(i));
  int64_t total;
  sum_of_threads_before(news, total, sums);
  if (threadIdx.x == 0) p.lengths[i] = total;
}

// Dynamic shared memory: `capacity` sums for each warp, the bits, and the counts before every word.
template <class Acc>
constexpr int64_t fill_bytes(int64_t capacity, int64_t parts, int64_t words) {
  return capacity * parts * static_cast<int64_t>(sizeof(Acc)) + words * (kWordBits / 8 + 4);
}

// Block (x, y): sums y * capacity .. of row x of the list. kPlain: values are stored as accumulators.
template <class Acc, bool kPlain>
__global__ void __launch_bounds__(kFillThreads, kBlocksAtOnce)
    fill_rows(const __grid_constant__ Product p, const int64_t* list, int capacity, int words) {
  BlockSums& block_sums = shared_storage<BlockSums>();
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int lane = thread % kWarpSize, parts = threads / kWarpSize;
  const int64_t i = list[blockIdx.x], start = p.lengths[i];
  const int first = static_cast<int>(blockIdx.y) * capacity, left = static_cast<int>(p.lengths[i + 1] - start) - first;
  if (left <= 0) return;
  const int here = left < capacity ? left : capacity;
  Acc* const all_sums = dynamic_shared<Acc>();
  Acc* const sums = all_sums + thread / kWarpSize * capacity;
  const Columns columns{reinterpret_cast<unsigned*>(all_sums + parts * capacity), words};
  int* const before = reinterpret_cast<int*>(columns.bits + words * (kWordBits / 32));
  const Range entries = p.row(i);

  columns.clear();
  for (int x = lane; x < here; x += kWarpSize) shared_store(&sums[x], Acc{});
  __syncthreads();
  columns.mark(p, entries);
  __syncthreads();
  const int per_thread = (words + threads - 1) / threads | 1;  // odd: lanes do not meet in a bank
  const int begin = thread * per_thread, end = begin + per_thread < words ? begin + per_thread : words;
  int set = 0;
  for (int w = begin; w < end; ++w) {
    const Pack<unsigned, 2> word = columns.word(w);
    set += __popc(word.v[0]) + __popc(word.v[1]);
  }
  int64_t total;
  int rank = static_cast<int>(sum_of_threads_before(set, total, block_sums));
  for (int w = begin; w < end; ++w) {
    const Pack<unsigned, 2> word = columns.word(w);
    shared_store(&before[w], rank);
    if (first > 0)
      rank += __popc(word.v[0]) + __popc(word.v[1]);
    else
#pragma unroll
      for (int half = 0; half < 2; ++half)
        for (unsigned rest = word.v[half]; rest != 0; rest &= rest - 1)
          store_index(p.col, p.wide, start + rank++,
                      static_cast<int64_t>(w) * kWordBits + half * 32 + __ffs(static_cast<int>(rest)) - 1);
  }
  __syncthreads();

  const auto value = [&](const void* values, int64_t at) {
    if constexpr (kPlain) return static_cast<const Acc*>(values)[at];
    return load_value<Acc>(p.type, values, at);
  };
  walk_products<Acc>(
      p, part_of(entries), [&](int64_t e) { return value(p.a, e); },
      [&](const bool (&found)[kSteps], const int (&n)[kSteps], const Acc(&a)[kSteps], bool alone) {
        unsigned column[kSteps];
        Acc b[kSteps];
#pragma unroll
        for (int u = 0; u < kSteps; ++u) {
          column[u] = found[u] ? static_cast<unsigned>(load_index(p.B.col, p.B.wide, n[u])) : 0;
          b[u] = found[u] ? value(p.b, n[u]) : Acc{};
        }
#pragma unroll
        for (int u = 0; u < kSteps; ++u) {
          const Pack<unsigned, 2> word = columns.word(static_cast<int>(column[u] / kWordBits));
          const unsigned below = (1u << column[u] % 32) - 1;
          const bool upper = column[u] % kWordBits >= 32;
          const int at = shared_load(&before[column[u] / kWordBits]) - first +
                         __popc(word.v[0] & (upper ? ~0u : below)) + __popc(word.v[1] & (upper ? below : 0u));
          const bool mine = found[u] && at >= 0 && at < here;
          const auto add = [&] {
            Acc sum = shared_load(&sums[at]);
            multiply_add(sum, a[u], b[u]);
            shared_store(&sums[at], sum);
          };
          if (alone && p.increasing) {
            if (mine) add();
          } else {
            const unsigned same = __match_any_sync(kAllLanes, mine ? at : -1 - lane);
            const int turn = __popc(same & ((1u << lane) - 1));
            for (int now = 0; __ballot_sync(kAllLanes, turn >= now) != 0; ++now) {
              if (mine && turn == now) add();
              __syncwarp();
            }
          }
          __syncwarp();
        }
      });
  __syncthreads();
  for (int x = thread; x < here; x += threads) {
    Acc sum = shared_load(&all_sums[x]);
    for (int part = 1; part < parts; ++part) sum = plus(sum, shared_load(&all_sums[part * capacity + x]));
    store_value(p.type, p.values, start + first + x, sum);
  }
}

// ---- Too many columns, up to 8192 products: a block -----------------------------------------------------------------

// A thread holds kOwn neighbouring keys, a warp 256: steps of the network within them need no shared memory.
constexpr int kOwn = 8;
constexpr int kWarpKeys = kWarpSize * kOwn;
constexpr int kMostThreads = (1 << kNumberBits) / kOwn;

template <class Key>
__device__ __forceinline__ void put_in_order(Key& first, Key& second, bool ascending) {
  const Key low = first < second ? first : second, high = first < second ? second : first;
  first = ascending ? low : high;
  second = ascending ? high : low;
}

// The steps of distances below kWarpKeys of one stage of the network. first: where the thread's keys begin.
template <class Key>
__device__ __forceinline__ void merge_in_warp(Key (&keys)[kOwn], int first, int length) {
  for (int distance = length / 2 < kWarpKeys ? length / 2 : kWarpKeys / 2; distance >= kOwn; distance /= 2) {
    const bool lower = (first & distance) == 0, ascending = (first & length) == 0;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const Key other = shuffle_xor(keys[i], distance / kOwn);
      keys[i] = (keys[i] < other) == (lower == ascending) ? keys[i] : other;
    }
  }
#pragma unroll
  for (int distance = kOwn / 2; distance > 0; distance /= 2)
    if (distance < length)
#pragma unroll
      for (int i = 0; i < kOwn; ++i)
        if ((i & distance) == 0) put_in_order(keys[i], keys[i + distance], ((first + i) & length) == 0);
}

// Sorts the first `size` keys, a power of two; all threads of the block, kOwn keys each at least.
template <class Key>
__device__ __forceinline__ void sort_keys(Key* keys, int size) {
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x), first = thread * kOwn;
  for (int length = 2; length <= size;) {
    for (int distance = length / 2; distance >= kWarpKeys; distance /= 2) {
      __syncthreads();
      for (int t = thread; t < size / 2; t += threads) {
        const int x = (t / distance) * 2 * distance + t % distance;
        Key low = shared_load(&keys[x]), high = shared_load(&keys[x + distance]);
        put_in_order(low, high, (x & length) == 0);
        shared_store(&keys[x], low);
        shared_store(&keys[x + distance], high);
      }
    }
    __syncthreads();
    Key own[kOwn];
#pragma unroll
    for (int i = 0; i < kOwn; ++i) own[i] = first < size ? shared_load(&keys[first + i]) : Key(0);
    do {  // a stage, or all that stay within a warp
      merge_in_warp(own, first, length);
      length *= 2;
    } while (length <= size && length <= kWarpKeys);
#pragma unroll
    for (int i = 0; i < kOwn; ++i)
      if (first < size) shared_store(&keys[first + i], own[i]);
  }
  __syncthreads();
}

// Dynamic shared memory: (kFill) `capacity` products, then as many keys.
template <class Acc, class Key, bool kFill>
constexpr size_t block_bytes(int64_t capacity) {
  return capacity * (sizeof(Key) + (kFill ? sizeof(Acc) : 0));
}

// A key is a column and the number of a product below number_bits.
template <class Acc, class Key, bool kFill>
__global__ void __launch_bounds__(kMostThreads)
    block_rows(const __grid_constant__ Product p, const int64_t* list, int capacity, int number_bits) {
  BlockSums& sums = shared_storage<BlockSums>();
  Acc* const products = dynamic_shared<Acc>();  // first, as they may need 16 bytes of alignment
  Key* const keys = reinterpret_cast<Key*>(products + (kFill ? capacity : 0));
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int64_t i = list[blockIdx.x];
  const Range entries = p.row(i);
  const int count = static_cast<int>(p.products(entries));
  int size = kOwn;
  while (size < count) size *= 2;
  for (int t = thread; t < size; t += threads) {
    Key key = ~Key(0);
    if (t < count) {
      int64_t e, n;
      p.find(entries, t, e, n);
      key = static_cast<Key>(load_index(p.B.col, p.B.wide, n)) << number_bits | static_cast<Key>(t);
      if constexpr (kFill) shared_store(&products[t], p.template value<Acc>(e, n));
    }
    shared_store(&keys[t], key);
  }
  sort_keys(keys, size);
  const auto column_at = [&](int t) { return shared_load(&keys[t]) >> number_bits; };
  int64_t columns = 0;  // before
  for (int first = 0; first < count; first += threads) {
    const int t = first + thread;
    const bool head = t < count && (t == 0 || column_at(t) != column_at(t - 1));
    int64_t total;
    const int64_t rank = sum_of_threads_before(head, total, sums);
    if (kFill && head) {
      const Key column = column_at(t);
      Acc sum{};
      for (int x = t; x < count && column_at(x) == column; ++x)
        sum = plus(sum, shared_load(&products[shared_load(&keys[x]) & ((Key(1) << number_bits) - 1)]));
      p.write(p.lengths[i] + columns + rank, static_cast<int64_t>(column), sum);
    }
    columns += total;
  }
  if (!kFill && thread == 0) p.lengths[i] = columns;
}

// ---- Too many columns, more products: many rows at once, in global memory -------------------------------------------

// Rows first .. first + rows of the list; their products are numbered through, row x from starts[x] - starts[first] on.
struct Batch {
  const int64_t* list;
  const int64_t* starts;
  int64_t first, rows, count;
  int column_bits;
  const uint64_t *keys, *order;  // sorted: the row in the batch, then the column; and the number
  int64_t* heads;                // how many columns begin before

  __device__ __forceinline__ int64_t begin(int64_t x) const { return starts[first + x] - starts[first]; }
};

__global__ void __launch_bounds__(kThreads)
    count_row_products(const Product p, const int64_t* list, int64_t rows, int64_t* starts) {
  if (const int64_t x = thread_in_grid(); x < rows) starts[x] = p.products(p.row(list[x]));
}

__global__ void __launch_bounds__(kThreads)
    make_keys(const __grid_constant__ Product p, const __grid_constant__ Batch batch, uint64_t* keys) {
  if (const int64_t t = thread_in_grid(); t < batch.count) {
    const int64_t x = lower_bound(batch.rows - 1, t + 1, [&](int64_t i) { return batch.begin(i + 1); });
    int64_t e, n;
    p.find(p.row(batch.list[batch.first + x]), t - batch.begin(x), e, n);
    keys[t] = static_cast<uint64_t>(x) << batch.column_bits | static_cast<uint64_t>(load_index(p.B.col, p.B.wide, n));
  }
}

__global__ void __launch_bounds__(kThreads) mark_heads(const __grid_constant__ Batch batch) {
  if (const int64_t t = thread_in_grid(); t < batch.count)
    batch.heads[t] = t == 0 || batch.keys[t] != batch.keys[t - 1];
}

__global__ void __launch_bounds__(kThreads) count_heads(const Product p, const __grid_constant__ Batch batch) {
  if (const int64_t x = thread_in_grid(); x < batch.rows)
    p.lengths[batch.list[batch.first + x]] = batch.heads[batch.begin(x + 1)] - batch.heads[batch.begin(x)];
}

constexpr int64_t kSerial = 64;  // products that a thread adds up alone

template <class Acc>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    fill_batch(const __grid_constant__ Product p, const __grid_constant__ Batch batch) {
  struct Shared {
    BlockList list;
    BlockReduction<Acc> sum;
  };
  Shared& shared = shared_storage<Shared>();
  const auto value_at = [&](int64_t t, int64_t x, Range entries) {
    int64_t e, n;
    p.find(entries, static_cast<int64_t>(batch.order[t]) - batch.begin(x), e, n);
    return p.template value<Acc>(e, n);
  };
  const auto write = [&](int64_t t, int64_t x, Acc sum) {
    const uint64_t column = batch.keys[t] & ((uint64_t(1) << batch.column_bits) - 1);
    const int64_t start = p.lengths[batch.list[batch.first + x]];
    p.write(start + batch.heads[t] - batch.heads[batch.begin(x)], static_cast<int64_t>(column), sum);
  };
  shared.list.clear();
  const int64_t t = thread_in_grid();
  if (t < batch.count && (t == 0 || batch.keys[t] != batch.keys[t - 1])) {
    const uint64_t key = batch.keys[t];
    const int64_t x = static_cast<int64_t>(key >> batch.column_bits);
    const Range entries = p.row(batch.list[batch.first + x]);
    Acc sum{};
    int64_t at = t;
    for (; at < batch.count && batch.keys[at] == key && at < t + kSerial; ++at)
      sum = plus(sum, value_at(at, x, entries));
    if (at < batch.count && batch.keys[at] == key)
      shared.list.add(t);
    else
      write(t, x, sum);
  }
  __syncthreads();
  const int longs = shared.list.size();
  for (int l = 0; l < longs; ++l) {
    const int64_t from = shared.list[l];
    const uint64_t key = batch.keys[from];
    const int64_t x = static_cast<int64_t>(key >> batch.column_bits);
    const Range entries = p.row(batch.list[batch.first + x]);
    Acc mine{};
    for (int64_t at = from + threadIdx.x; at < batch.count && batch.keys[at] == key; at += kThreads)
      mine = plus(mine, value_at(at, x, entries));
    const Acc sum = shared.sum(mine);
    if (threadIdx.x == 0) write(from, x, sum);
  }
}

// crow of C, in the width of its indices.
__global__ void __launch_bounds__(kThreads) write_crow(const int64_t* starts, int64_t rows, bool wide, void* crow) {
  if (const int64_t i = thread_in_grid(); i <= rows) store_index(crow, wide, i, starts[i]);
}
// The row of every entry.
__global__ void __launch_bounds__(kThreads) write_rows(const int64_t* starts, int64_t rows, bool wide, void* row) {
  const int64_t e = thread_in_grid();
  if (e >= starts[rows]) return;
  store_index(row, wide, e, lower_bound(rows, e + 1, [&](int64_t i) { return starts[i + 1]; }));
}

// ---- The host -------------------------------------------------------------------------------------------------------

struct HugeRows {
  const int64_t* list = nullptr;
  int64_t rows = 0;
  int64_t* starts = nullptr;  // on the device
  std::vector<int64_t> starts_on_host;
};

template <class T>
cudaError_t read_back(T* to, const T* from, int64_t count, const SparseSession& session) {
  MYOPS_CUDA_TRY(cudaMemcpyAsync(to, from, count * sizeof(T), cudaMemcpyDeviceToHost, session.stream));
  return cudaStreamSynchronize(session.stream);
}

template <class Acc>
class Multiplication {
 public:
  Multiplication(const Spgemm& problem, const SparseSession& session) : session_(session) {
    p_.A = problem.A;
    p_.B = problem.B;
    p_.a = problem.a;
    p_.b = problem.b;
    p_.type = problem.type;
    p_.wide = problem.A.wide;
    p_.increasing = false;
    p_.col = p_.values = nullptr;
  }

  cudaError_t run(const SpgemmSink& sink, Status* status) {
    MYOPS_CUDA_TRY(prepare());
    MYOPS_CUDA_TRY(make_bins<false>());
    *status = status_of(static_cast<unsigned>(bins_.findings));
    if (*status != Status::ok) return cudaSuccess;
    p_.increasing = bins_.unordered == 0;
    if (!by_bits_) MYOPS_CUDA_TRY(prepare_huge_rows());

    MYOPS_CUDA_TRY(count());
    MYOPS_CUDA_TRY(launch_scan(Same{p_.lengths}, p_.A.rows, length_words_, p_.lengths, session_));
    MYOPS_CUDA_TRY(by_bits_ ? make_bins<true>() : read_back(&bins_.nnz, p_.lengths + p_.A.rows, 1, session_));
    if (!p_.wide && bins_.nnz > std::numeric_limits<int32_t>::max()) {
      *status = Status::too_many_entries;
      return cudaSuccess;
    }
    const SpgemmResult result = sink(bins_.nnz);
    p_.col = result.col;
    p_.values = result.values;
    MYOPS_CUDA_TRY(
        launch(&write_crow, blocks_of(p_.A.rows + 1, kThreads), p_.lengths, p_.A.rows, p_.wide, result.crow));
    if (result.row != nullptr)
      MYOPS_CUDA_TRY(launch(&write_rows, blocks_of(bins_.nnz, kThreads), p_.lengths, p_.A.rows, p_.wide, result.row));
    return fill();
  }

 private:
  template <class... Parameters, class... Arguments>
  cudaError_t launch(void (*kernel)(Parameters...), int64_t blocks, const Arguments&... arguments) {
    return launch_kernel(kernel, grid_of(blocks), dim3(kThreads), 0, session_.stream, arguments...);
  }

  // Steps 1 and before. Everything that is zero at first lies together.
  cudaError_t prepare() {
    const int64_t bins = 2 * sizeof(Bins) / sizeof(Word), of_entries = scan_words(p_.A.nnz);
    const int64_t words = bins + of_entries + scan_words(p_.A.rows);
    Word* const zeros = session_.array<Word>(words);
    MYOPS_CUDA_TRY(cudaMemsetAsync(zeros, 0, words * sizeof(Word), session_.stream));
    device_bins_ = reinterpret_cast<Bins*>(zeros);
    length_words_ = zeros + bins + of_entries;
    const int64_t items = std::max({p_.A.nnz, p_.A.rows, p_.B.nnz, p_.B.rows});
    MYOPS_CUDA_TRY(launch(&check_operands, blocks_of(items, kThreads), p_.A, p_.B, device_bins_, session_.findings));
    int64_t* const before = session_.array<int64_t>(p_.A.nnz + 1);
    MYOPS_CUDA_TRY(launch_scan(ProductsOfEntry{p_.A, p_.B}, p_.A.nnz, zeros + bins, before, session_));
    p_.before = before;
    p_.lengths = session_.array<int64_t>(p_.A.rows + 1);
    lists_ = session_.array<int64_t>(kBins * p_.A.rows);
    int device = 0, shared = 0;
    MYOPS_CUDA_TRY(cudaGetDevice(&device));
    MYOPS_CUDA_TRY(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    shared_ = shared - static_cast<int64_t>(kOwnShared);
    by_bits_ = p_.B.cols <= kMostMarked && p_.B.nnz <= kMostEntries && fill_capacity(kHugeBin) > 0;
    return cudaSuccess;
  }

  // Rows by their products, or by their columns; the host waits.
  template <bool kColumns>
  cudaError_t make_bins() {
    if (by_bits_) {
      capacity_ = kColumns ? Capacities{{0, 512, 2048, 4096, INT64_MAX}}
                           : Capacities{{kWarpProducts, 1024, 16384, INT64_MAX, INT64_MAX}};
    } else if (!kColumns) {
      int64_t largest = int64_t(1) << kNumberBits;
      while (static_cast<int64_t>(block_bytes<Acc, uint64_t, true>(largest)) > shared_) largest /= 2;
      capacity_ = {{kWarpProducts, 256, 1024, largest, INT64_MAX}};
      // A key has room for columns up to 2^51; beyond, all rows are sorted in global memory, whose keys have other
      // parts.
      if (bits_for(p_.B.cols) + kNumberBits > 64) capacity_ = {{0, 0, 0, 0, INT64_MAX}};
    }
    Bins* const bins = device_bins_ + kColumns;
    MYOPS_CUDA_TRY(launch(&sort_into_bins<kColumns>, blocks_of(p_.A.rows, kThreads), p_, capacity_, bins, lists_,
                          session_.findings));
    const unsigned long long short_rows = bins_.rows[0];
    MYOPS_CUDA_TRY(read_back(&bins_, bins, 1, session_));
    if (kColumns) bins_.rows[0] = short_rows;  // in their list still
    return cudaSuccess;
  }

  cudaError_t prepare_huge_rows() {
    huge_.list = list(kHugeBin);
    huge_.rows = rows_in(kHugeBin);
    if (huge_.rows == 0) return cudaSuccess;
    huge_.starts = session_.array<int64_t>(huge_.rows + 1);
    MYOPS_CUDA_TRY(
        launch(&count_row_products, blocks_of(huge_.rows, kThreads), p_, huge_.list, huge_.rows, huge_.starts));
    MYOPS_CUDA_TRY(launch_exclusive_scan(huge_.starts, huge_.rows, session_));
    huge_.starts_on_host.resize(huge_.rows + 1);
    return read_back(huge_.starts_on_host.data(), huge_.starts, huge_.rows + 1, session_);
  }

  int64_t rows_in(int bin) const { return static_cast<int64_t>(bins_.rows[bin]); }
  const int64_t* list(int bin) const { return lists_ + bin * p_.A.rows; }

  template <class Summed, bool kFill>
  cudaError_t launch_warps() {
    if (rows_in(0) == 0) return cudaSuccess;
    return launch(&warp_rows<Summed, kFill>, blocks_of(rows_in(0), kThreads / kWarpSize), p_, list(0), rows_in(0));
  }

  cudaError_t count() {
    if (!by_bits_) return sort<false>();
    MYOPS_CUDA_TRY((launch_warps<uint64_t, false>()));  // the same for all types
    const int64_t words = column_words(p_.B.cols);
    for (int bin = 1; bin < kBins; ++bin) {
      if (rows_in(bin) == 0) continue;
      const unsigned threads = bin == 1 ? 128 : bin == 2 ? 256 : kCountThreads;
      MYOPS_CUDA_TRY(launch_kernel(&count_columns, grid_of(rows_in(bin)), dim3(threads), words * kWordBits / 8,
                                   session_.stream, p_, list(bin), static_cast<int>(words)));
    }
    return cudaSuccess;
  }

  cudaError_t fill() {
    if (!by_bits_) return sort<true>();
    MYOPS_CUDA_TRY((launch_warps<Acc, true>()));
    const bool plain = !(p_.type == DType::bf16 || p_.type == DType::f16 || p_.type == DType::i8 ||
                         p_.type == DType::u8 || p_.type == DType::i16 || p_.type == DType::i32);
    for (int bin = kHugeBin; bin > 0; --bin)  // the longest rows first
      if (rows_in(bin) > 0) MYOPS_CUDA_TRY(plain ? launch_fill<true>(bin) : launch_fill<false>(bin));
    return cudaSuccess;
  }

  static int64_t fill_parts(int bin) { return bin == kHugeBin ? 8 : 4; }
  // Sums that a block keeps for each part; 0 where there is no room for any.
  int64_t fill_capacity(int bin) const {
    constexpr int64_t kLeast = 32;
    const int64_t parts = fill_parts(bin),
                  columns = bin == kHugeBin ? p_.B.cols : std::min(p_.B.cols, capacity_.of[bin]);
    const int64_t room = (shared_ - fill_bytes<Acc>(0, parts, column_words(p_.B.cols))) / (parts * sizeof(Acc));
    return room < kLeast ? 0 : std::min((columns + kLeast - 1) / kLeast, room / kLeast) * kLeast;
  }

  template <bool kPlain>
  cudaError_t launch_fill(int bin) {
    const int64_t parts = fill_parts(bin), capacity = fill_capacity(bin), words = column_words(p_.B.cols);
    const int64_t columns = std::min(p_.B.cols, capacity_.of[bin]);
    return launch_kernel(&fill_rows<Acc, kPlain>,
                         dim3(static_cast<unsigned>(rows_in(bin)), static_cast<unsigned>(blocks_of(columns, capacity))),
                         dim3(static_cast<unsigned>(parts * kWarpSize)), fill_bytes<Acc>(capacity, parts, words),
                         session_.stream, p_, list(bin), static_cast<int>(capacity), static_cast<int>(words));
  }

  // Counts (lengths) or fills (from lengths, which by then say where rows begin) the rows of all bins.
  template <bool kFill>
  cudaError_t sort() {
    using Summed = std::conditional_t<kFill, Acc, uint64_t>;
    MYOPS_CUDA_TRY((launch_warps<Summed, kFill>()));
    for (int bin = 1; bin < kHugeBin; ++bin) {
      if (rows_in(bin) == 0) continue;
      MYOPS_CUDA_TRY(bits_for(p_.B.cols) + bits_for(capacity_.of[bin]) <= 32
                         ? launch_blocks<Summed, uint32_t, kFill>(bin)
                         : launch_blocks<Summed, uint64_t, kFill>(bin));
    }
    return huge_pass(kFill);
  }

  template <class Summed, class Key, bool kFill>
  cudaError_t launch_blocks(int bin) {
    const int64_t capacity = capacity_.of[bin];
    return launch_kernel(&block_rows<Summed, Key, kFill>, grid_of(static_cast<int64_t>(bins_.rows[bin])),
                         dim3(static_cast<unsigned>(capacity / kOwn)), block_bytes<Summed, Key, kFill>(capacity),
                         session_.stream, p_, list(bin), static_cast<int>(capacity), bits_for(capacity));
  }

  cudaError_t huge_pass(bool fill) {
    const int column_bits = bits_for(p_.B.cols);
    const int64_t most_rows = int64_t(1) << (64 - column_bits < 31 ? 64 - column_bits : 31);
    const std::vector<int64_t>& starts = huge_.starts_on_host;
    for (int64_t first = 0, end = 0; first < huge_.rows; first = end) {
      end = first + 1;
      while (end < huge_.rows && end - first < most_rows && starts[end + 1] - starts[first] <= kBatch) ++end;
      const SparseScope scope(session_);
      Batch batch{huge_.list,  huge_.starts, first,   end - first, starts[end] - starts[first],
                  column_bits, nullptr,      nullptr, nullptr};
      uint64_t* const keys = session_.array<uint64_t>(batch.count);
      uint64_t* const sorted = session_.array<uint64_t>(batch.count);
      uint64_t* const order = session_.array<uint64_t>(batch.count);
      batch.heads = session_.array<int64_t>(batch.count + 1);
      batch.keys = sorted;
      batch.order = order;
      const int64_t blocks = blocks_of(batch.count, kThreads);
      MYOPS_CUDA_TRY(launch(&make_keys, blocks, p_, batch, keys));
      MYOPS_CUDA_TRY(
          launch_sort<uint64_t>(keys, batch.count, bits_for(batch.rows) + column_bits, sorted, order, session_));
      MYOPS_CUDA_TRY(launch(&mark_heads, blocks, batch));
      MYOPS_CUDA_TRY(launch_exclusive_scan(batch.heads, batch.count, session_));
      MYOPS_CUDA_TRY(fill ? launch(&fill_batch<Acc>, blocks, p_, batch)
                          : launch(&count_heads, blocks_of(batch.rows, kThreads), p_, batch));
    }
    return cudaSuccess;
  }

  const SparseSession& session_;
  Product p_;
  int64_t* lists_ = nullptr;
  Capacities capacity_ = {};
  Bins bins_ = {};
  Bins* device_bins_ = nullptr;
  Word* length_words_ = nullptr;
  int64_t shared_ = 0;  // of a block
  bool by_bits_ = false;
  HugeRows huge_;
};

}  // namespace

cudaError_t launch_spgemm(const Spgemm& problem, const SpgemmSink& sink, const SparseSession& session, Status* status) {
  return with_accumulator(problem.type, [&](auto accumulator) {
    return Multiplication<decltype(accumulator)>(problem, session).run(sink, status);
  });
}

}  // namespace myops
