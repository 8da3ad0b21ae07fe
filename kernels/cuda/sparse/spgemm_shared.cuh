// Sparse times sparse (spgemm.cu): rows of C in registers and in shared memory.
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
#pragma once
#include "spgemm_product.cuh"

namespace myops {
namespace {

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

}  // namespace
}  // namespace myops
