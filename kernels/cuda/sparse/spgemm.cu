// C = A @ B for three matrices in CSR: the products of a row of C are sorted by column, and equal columns added up.
//
//   1  before[e]: how many products the entries of A before e have        (scan of the lengths of rows of B)
//   2  rows of C by their number of products, into bins; the host reads how many there are in each, and what was found
//   3  count: how many columns each row has                               (the sorts, without values)
//   4  the host reads their sum, and the caller allocates C
//   5  fill: columns and sums                                             (the sorts again)
//
// Why sorted and not hashed: a hash table adds products up in the order in which threads come, and its columns are to
// be sorted in the end anyway. Here the number of a product is the low half of its key, so equal columns lie in the
// order of the entries of A and every sum has one order. Products are formed in step 5 alone: two passes over keys cost
// less memory than keeping products, of which a row may have hundreds for one entry.
//
//   up to 32 products   a warp, keys in registers, exchanged by shuffles
//   up to 8192          a block, keys and products in shared memory, a bitonic network of which a warp does what it can
//                       in registers; keys of 32 bits where columns allow it
//   more                keys of many rows in global memory, sorted by (row, column) at once by sort.h, in batches of
//                       bounded size
#include "spgemm.cuh"

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

__global__ void __launch_bounds__(kThreads)
    count_products(const Csr A, const Csr B, int64_t* before, unsigned* findings) {
  if (const int64_t e = thread_in_grid(); e < A.nnz) {
    const int64_t k = load_index(A.col, A.wide, e);
    before[e] = inside(k, B.rows) ? row_range(B, k, findings).size() : 0;
  }
}

// What the host reads after step 2.
struct Bins {
  unsigned long long rows[kBins];  // with products at all
};

// lists[bin]: room for all rows in each.
__global__ void __launch_bounds__(kThreads) sort_into_bins(const Product p, const __grid_constant__ Capacities capacity,
                                                           Bins* bins, int64_t* lists, unsigned* findings) {
  struct Shared {
    unsigned count[kBins];
    int64_t first[kBins];
  };
  Shared& shared = shared_storage<Shared>();
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < kBins) shared_store(&shared.count[thread], 0u);
  __syncthreads();
  const int64_t i = thread_in_grid();
  const int64_t products = i < p.A.rows ? p.products(row_range(p.A, i, findings)) : 0;
  int bin = 0;
  while (products > capacity.of[bin]) ++bin;
  const unsigned place = products > 0 ? atomicAdd(&shared.count[bin], 1u) : 0;
  __syncthreads();
  if (thread < kBins)
    shared_store(&shared.first[thread],
                 static_cast<int64_t>(atomicAdd(&bins->rows[thread],
                                                static_cast<unsigned long long>(shared_load(&shared.count[thread])))));
  __syncthreads();
  if (products > 0) lists[bin * p.A.rows + shared_load(&shared.first[bin]) + place] = i;
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

// ---- Up to 8192: a block --------------------------------------------------------------------------------------------

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

// ---- More: many rows at once, in global memory ----------------------------------------------------------------------

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

// Columns of C where the row's products are known to begin: the sums over prefixes of the lengths.
__global__ void __launch_bounds__(kThreads) write_crow(const int64_t* starts, int64_t rows, bool wide, void* crow) {
  if (const int64_t i = thread_in_grid(); i <= rows) store_index(crow, wide, i, starts[i]);
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
    p_.col = p_.values = nullptr;
  }

  cudaError_t run(const SpgemmSink& sink, Status* status) {
    MYOPS_CUDA_TRY(launch_check(p_.A, session_));
    MYOPS_CUDA_TRY(launch_check(p_.B, session_));
    int64_t* const before = session_.array<int64_t>(p_.A.nnz + 1);
    MYOPS_CUDA_TRY(launch(&count_products, blocks_of(p_.A.nnz, kThreads), p_.A, p_.B, before, session_.findings));
    MYOPS_CUDA_TRY(launch_exclusive_scan(before, p_.A.nnz, session_));
    p_.before = before;
    p_.lengths = session_.array<int64_t>(p_.A.rows + 1);
    MYOPS_CUDA_TRY(cudaMemsetAsync(p_.lengths, 0, (p_.A.rows + 1) * sizeof(int64_t), session_.stream));
    MYOPS_CUDA_TRY(make_bins());
    MYOPS_CUDA_TRY(read_findings(session_, status));
    if (*status != Status::ok) return cudaSuccess;
    MYOPS_CUDA_TRY(prepare_huge_rows());

    MYOPS_CUDA_TRY(pass<false>());
    MYOPS_CUDA_TRY(launch_exclusive_scan(p_.lengths, p_.A.rows, session_));
    int64_t nnz = 0;
    MYOPS_CUDA_TRY(read_back(&nnz, p_.lengths + p_.A.rows, 1, session_));
    if (!p_.wide && nnz > std::numeric_limits<int32_t>::max()) {
      *status = Status::too_many_entries;
      return cudaSuccess;
    }
    const SpgemmResult result = sink(nnz);
    p_.col = result.col;
    p_.values = result.values;
    MYOPS_CUDA_TRY(
        launch(&write_crow, blocks_of(p_.A.rows + 1, kThreads), p_.lengths, p_.A.rows, p_.wide, result.crow));
    return pass<true>();
  }

 private:
  template <class... Parameters, class... Arguments>
  cudaError_t launch(void (*kernel)(Parameters...), int64_t blocks, const Arguments&... arguments) {
    return launch_kernel(kernel, grid_of(blocks), dim3(kThreads), 0, session_.stream, arguments...);
  }

  cudaError_t make_bins() {
    Bins* const bins = session_.array<Bins>(1);
    lists_ = session_.array<int64_t>(kBins * p_.A.rows);
    MYOPS_CUDA_TRY(cudaMemsetAsync(bins, 0, sizeof(Bins), session_.stream));
    int device = 0, shared = 0;
    MYOPS_CUDA_TRY(cudaGetDevice(&device));
    MYOPS_CUDA_TRY(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    int64_t largest = int64_t(1) << kNumberBits;
    while (block_bytes<Acc, uint64_t, true>(largest) + sizeof(BlockSums) > static_cast<size_t>(shared)) largest /= 2;
    capacity_ = {{kWarpProducts, 256, 1024, largest, INT64_MAX}};
    // A key has room for columns up to 2^51; beyond, all rows are sorted in global memory, whose keys have other parts.
    if (bits_for(p_.B.cols) + kNumberBits > 64) capacity_ = {{0, 0, 0, 0, INT64_MAX}};
    MYOPS_CUDA_TRY(
        launch(&sort_into_bins, blocks_of(p_.A.rows, kThreads), p_, capacity_, bins, lists_, session_.findings));
    // The host waits for it when it reads the findings.
    return cudaMemcpyAsync(&bins_, bins, sizeof(Bins), cudaMemcpyDeviceToHost, session_.stream);
  }

  cudaError_t prepare_huge_rows() {
    huge_.list = lists_ + kHugeBin * p_.A.rows;
    huge_.rows = static_cast<int64_t>(bins_.rows[kHugeBin]);
    if (huge_.rows == 0) return cudaSuccess;
    huge_.starts = session_.array<int64_t>(huge_.rows + 1);
    MYOPS_CUDA_TRY(
        launch(&count_row_products, blocks_of(huge_.rows, kThreads), p_, huge_.list, huge_.rows, huge_.starts));
    MYOPS_CUDA_TRY(launch_exclusive_scan(huge_.starts, huge_.rows, session_));
    huge_.starts_on_host.resize(huge_.rows + 1);
    return read_back(huge_.starts_on_host.data(), huge_.starts, huge_.rows + 1, session_);
  }

  // Counts (lengths) or fills (from lengths, which by then say where rows begin) the rows of all bins.
  template <bool kFill>
  cudaError_t pass() {
    using Summed = std::conditional_t<kFill, Acc, uint64_t>;  // counting is the same for all
    const auto rows_in = [&](int bin) { return static_cast<int64_t>(bins_.rows[bin]); };
    if (rows_in(0) > 0)
      MYOPS_CUDA_TRY(
          launch(&warp_rows<Summed, kFill>, blocks_of(rows_in(0), kThreads / kWarpSize), p_, lists_, rows_in(0)));
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
                         session_.stream, p_, lists_ + bin * p_.A.rows, static_cast<int>(capacity), bits_for(capacity));
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
  HugeRows huge_;
};

}  // namespace

cudaError_t launch_spgemm(const Spgemm& problem, const SpgemmSink& sink, const SparseSession& session, Status* status) {
  return with_accumulator(problem.type, [&](auto accumulator) {
    return Multiplication<decltype(accumulator)>(problem, session).run(sink, status);
  });
}

}  // namespace myops
