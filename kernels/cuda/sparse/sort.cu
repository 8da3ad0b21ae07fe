#include "sort.h"

#include "block.cuh"

namespace myops {
namespace {

// ---- Radix sort: all digits are counted in one walk; then each pass moves the keys in one
// ------------------------------

constexpr int kDigits = 1 << kDigitBits;
constexpr int kMostPasses = (64 + kDigitBits - 1) / kDigitBits;
constexpr int kSortThreads = 512;
constexpr int kSortWarps = kSortThreads / kWarpSize;
constexpr int kAhead = 4;  // tiles looked at at a time
static_assert(kDigits == kSortThreads, "thread d keeps the count of digit d");

template <class Key>
constexpr int kItems = 48 / static_cast<int>(sizeof(Key));  // keys of a thread: more would spill
template <class Key>
constexpr int kTileKeys = kSortThreads * kItems<Key>;

// How `bits` bits are cut into digits, and the words that the passes need, zero before the first: how many keys have
// each digit, for every pass; then, for every pass, the next tile and one word for each tile and digit.
struct Passes {
  int count = 1, bits = 0;  // of a digit
  int64_t tiles = 0;
  Word* words = nullptr;

  int64_t size() const { return count * (kDigits + 1 + tiles * kDigits); }
  __host__ __device__ __forceinline__ Word* counts(int pass) const { return words + pass * kDigits; }
  __host__ __device__ __forceinline__ Word* next(int pass) const {
    return words + count * kDigits + pass * (1 + tiles * kDigits);
  }
};

template <class Key>
Passes plan_passes(int64_t keys, int bits) {
  Passes passes;
  passes.count = bits <= kDigitBits ? 1 : (bits + kDigitBits - 1) / kDigitBits;
  passes.bits = bits < 1 ? 1 : (bits + passes.count - 1) / passes.count;
  passes.tiles = blocks_of(keys, kTileKeys<Key>);
  return passes;
}

cudaError_t allocate_words(Passes* passes, const SparseSession& session) {
  passes->words = session.array<Word>(passes->size());
  return cudaMemsetAsync(passes->words, 0, passes->size() * sizeof(Word), session.stream);
}

template <class Key>
__device__ __forceinline__ int digit_of(Key key, const Passes& passes, int pass) {
  return static_cast<int>(key >> (pass * passes.bits)) & ((1 << passes.bits) - 1);
}

struct DigitCounts {
  unsigned of[kMostPasses][kDigits];

  __device__ __forceinline__ void clear(const Passes& passes) {
    for (int pass = 0; pass < passes.count; ++pass) shared_store(&of[pass][threadIdx.x], 0u);
    __syncthreads();
  }
  template <class Key>
  __device__ __forceinline__ void add(Key key, const Passes& passes) {
    for (int pass = 0; pass < passes.count; ++pass) atomicAdd(&of[pass][digit_of(key, passes, pass)], 1u);
  }
  __device__ __forceinline__ void give(const Passes& passes) {
    __syncthreads();
    for (int pass = 0; pass < passes.count; ++pass)
      if (const unsigned n = shared_load(&of[pass][threadIdx.x]); n > 0)
        atomicAdd(&passes.counts(pass)[threadIdx.x], static_cast<Word>(n));
  }
};

template <class Key>
__global__ void __launch_bounds__(kSortThreads)
    count_digits(const Key* keys, int64_t count, const __grid_constant__ Passes passes) {
  DigitCounts& counts = shared_storage<DigitCounts>();
  counts.clear(passes);
  for (int i = 0; i < kItems<Key>; ++i) {
    const int64_t at = static_cast<int64_t>(blockIdx.x) * kTileKeys<Key> + i * kSortThreads + threadIdx.x;
    if (at < count) counts.add(keys[at], passes);
  }
  counts.give(passes);
}

template <class Key>
struct TileShared {
  unsigned before[kSortWarps][kDigits];  // keys of a digit in a warp; then, before the warp's in the sorted tile
  int64_t offset[kDigits];               // from the place in the sorted tile to the one in the result
  Key keys[kTileKeys<Key>], order[kTileKeys<Key>];
  BlockSums sums;
  int64_t tile;
};

// The lanes that have the same digit; lanes behind the last key have none.
__device__ __forceinline__ unsigned lanes_with(int digit, bool valid) {
  unsigned same = __ballot_sync(kAllLanes, valid);
#pragma unroll 3
  for (int b = 0; b < kDigitBits; ++b) {
    const bool set = (digit >> b & 1) != 0;
    const unsigned with = __ballot_sync(kAllLanes, set);
    same &= set ? with : ~with;
  }
  return same;
}

// Keys with digit d = threadIdx.x in the tiles before, and with smaller digits anywhere.
__device__ __forceinline__ int64_t keys_before(Word* words, int64_t tile, int64_t smaller, unsigned own) {
  Word* const mine = words + threadIdx.x;
  int64_t before = smaller;
  if (tile > 0) {
    write_word(&mine[tile * kDigits], kOfTile | own);
    before = 0;
    bool complete = false;
    for (int64_t last = tile - 1; !complete; last -= kAhead) {
      Word word[kAhead];
#pragma unroll
      for (int u = 0; u < kAhead; ++u) word[u] = last >= u ? read_word(&mine[(last - u) * kDigits]) : kOfAll;
#pragma unroll
      for (int u = 0; u < kAhead; ++u) {
        while (word[u] == 0) word[u] = read_word(&mine[(last - u) * kDigits]);
        if (!complete) before += static_cast<int64_t>(word[u] & kSum);
        complete = complete || word[u] >= kOfAll;
      }
    }
  }
  write_word(&mine[tile * kDigits], kOfAll | static_cast<Word>(before + own));
  return before;
}

// Moves the keys of a tile to their places: those before a key in its warp's part are counted as the warp walks, 32 at
// a time; then the tile is sorted in shared memory, and written in order. order == nullptr: the keys' own numbers.
template <class Key>
__global__ void __launch_bounds__(kSortThreads)
    move_keys(const Key* keys, const Key* order, int64_t count, const __grid_constant__ Passes passes, int pass,
              Key* to, Key* order_to) {
  TileShared<Key>& shared = *dynamic_shared<TileShared<Key>>();
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarpSize, warp = thread / kWarpSize;
  Word* const words = passes.next(pass);
  if (thread == 0) shared_store(&shared.tile, static_cast<int64_t>(atomicAdd(words, Word(1))));
  for (int w = 0; w < kSortWarps; ++w) shared_store(&shared.before[w][thread], 0u);
  __syncthreads();
  const int64_t tile = shared_load(&shared.tile), begin = tile * kTileKeys<Key>;
  const int size = count - begin < kTileKeys<Key> ? static_cast<int>(count - begin) : kTileKeys<Key>;
  const int first = warp * kItems<Key> * kWarpSize + lane;
  Key own[kItems<Key>];
  unsigned before[kItems<Key>];
#pragma unroll
  for (int i = 0; i < kItems<Key>; ++i) own[i] = first + i * kWarpSize < size ? keys[begin + first + i * kWarpSize] : 0;
#pragma unroll
  for (int i = 0; i < kItems<Key>; ++i) {
    const bool valid = first + i * kWarpSize < size;
    const int digit = digit_of(own[i], passes, pass);
    const unsigned same = lanes_with(digit, valid);
    const int rank = __popc(same & ((1u << lane) - 1));
    before[i] = valid ? shared_load(&shared.before[warp][digit]) + rank : 0;
    __syncwarp();
    if (valid && rank == 0) shared_store(&shared.before[warp][digit], before[i] + __popc(same));
    __syncwarp();
  }
  __syncthreads();
  unsigned of_digit = 0;
  for (int w = 0; w < kSortWarps; ++w) of_digit += shared_load(&shared.before[w][thread]);
  int64_t all, smaller = 0;
  const int64_t start = sum_of_threads_before(of_digit, all, shared.sums);
  if (tile == 0)  // for the whole block
    smaller = sum_of_threads_before(static_cast<int64_t>(passes.counts(pass)[thread]), all, shared.sums);
  unsigned place = static_cast<unsigned>(start);
  for (int w = 0; w < kSortWarps; ++w) {
    const unsigned of_warp = shared_load(&shared.before[w][thread]);
    shared_store(&shared.before[w][thread], place);
    place += of_warp;
  }
  shared_store(&shared.offset[thread], keys_before(words + 1, tile, smaller, of_digit) - start);
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kItems<Key>; ++i) {
    const int x = first + i * kWarpSize;
    if (x >= size) continue;
    const unsigned at = shared_load(&shared.before[warp][digit_of(own[i], passes, pass)]) + before[i];
    shared_store(&shared.keys[at], own[i]);
    shared_store(&shared.order[at], order == nullptr ? static_cast<Key>(begin + x) : order[begin + x]);
  }
  __syncthreads();
  for (int x = thread; x < size; x += kSortThreads) {
    const Key key = shared_load(&shared.keys[x]);
    const int64_t at = shared_load(&shared.offset[digit_of(key, passes, pass)]) + x;
    to[at] = key;
    order_to[at] = shared_load(&shared.order[x]);
  }
}

// Sorts keys whose digits are counted.
template <class Key>
cudaError_t launch_passes(const Key* keys, int64_t count, const Passes& passes, Key* to, Key* order,
                          const SparseSession& session) {
  Key* const other = passes.count > 1 ? session.array<Key>(count) : nullptr;
  Key* const other_order = passes.count > 1 ? session.array<Key>(count) : nullptr;
  const Key* from = keys;
  const Key* from_order = nullptr;
  for (int pass = 0; pass < passes.count; ++pass) {
    const bool last_half = (passes.count - 1 - pass) % 2 == 0;  // so that the last pass writes the results
    Key* const to_keys = last_half ? to : other;
    Key* const to_order = last_half ? order : other_order;
    MYOPS_CUDA_TRY(launch_kernel(&move_keys<Key>, grid_of(passes.tiles), dim3(kSortThreads), sizeof(TileShared<Key>),
                                 session.stream, from, from_order, count, passes, pass, to_keys, to_order));
    from = to_keys;
    from_order = to_order;
  }
  return cudaSuccess;
}

// ---- Patterns -------------------------------------------------------------------------------------------------------

__global__ void __launch_bounds__(kThreads) check_pattern(const Csr A, unsigned* findings) {
  check_item(A, thread_in_grid(), findings);
}

__global__ void __launch_bounds__(kThreads) check_rows(const CompressRows p, unsigned* findings) {
  if (const int64_t e = thread_in_grid(); e < p.nnz) {
    const int64_t row = load_index(p.row, p.wide, e);
    if (!inside(row, p.rows)) report(findings, Status::bad_col);
    if (e > 0 && load_index(p.row, p.wide, e - 1) > row) report(findings, Status::bad_crow);
  }
}

// crow[i]: how many entries are in rows before i.
__global__ void __launch_bounds__(kThreads) start_rows(const CompressRows p) {
  if (const int64_t i = thread_in_grid(); i <= p.rows)
    store_index(p.crow, p.wide, i, lower_bound(p.nnz, i, [&](int64_t e) { return load_index(p.row, p.wide, e); }));
}

cudaError_t launch_start_rows(const CompressRows& p, const SparseSession& session) {
  return launch_kernel(&start_rows, grid_of(blocks_of(p.rows + 1, kThreads)), dim3(kThreads), 0, session.stream, p);
}

// The last row that begins at entry e or before, from one that does: rows are mostly near.
__device__ __forceinline__ int64_t row_after(const Csr& A, int64_t e, int64_t from) {
  const auto begins = [&](int64_t i) { return i < A.rows && load_index(A.crow, A.wide, i) <= e; };
  int64_t step = 1;
  for (; begins(from + step); step *= 2) from += step;
  for (step /= 2; step > 0; step /= 2)
    if (begins(from + step)) from += step;
  return from;
}

// Before the passes: looks at every index, counts the digits of the columns, and writes down the row of each entry, as
// one read is less than a search when the entries have moved; unless rows are given, without crow.
template <class Key>
__global__ void __launch_bounds__(kSortThreads)
    look_at_pattern(const Csr A, const __grid_constant__ Passes passes, Key* rows, unsigned* findings) {
  DigitCounts& counts = shared_storage<DigitCounts>();
  counts.clear(passes);
  const int64_t thread = thread_in_grid(), threads = static_cast<int64_t>(gridDim.x) * kSortThreads;
  const bool compressed = A.crow != nullptr;
  if (compressed && A.rows == 0 && thread == 0 && (load_index(A.crow, A.wide, 0) != 0 || A.nnz != 0))
    report(findings, Status::bad_crow);
  for (int64_t i = thread; compressed && i < A.rows; i += threads) row_range(A, i, findings);
  const Key* columns = static_cast<const Key*>(A.col);
  int64_t e = thread / kWarpSize * (kItems<Key> * kWarpSize) + thread % kWarpSize, row = -1;
  for (int i = 0; i < kItems<Key> && e < A.nnz; ++i, e += kWarpSize) {
    if (!inside(load_index(A.col, A.wide, e), A.cols)) report(findings, Status::bad_col);
    counts.add(columns[e], passes);
    if (A.rows == 0 || !compressed) continue;
    row = row < 0 ? lower_bound(
                        A.rows - 1, e + 1, [&](int64_t r) { return load_index(A.crow, A.wide, r + 1); })
                  : row_after(A, e, row);
    rows[e] = static_cast<Key>(row);
  }
  counts.give(passes);
}

// The rows of the entries in their new order, and where columns begin.
template <class Key>
__global__ void __launch_bounds__(kThreads) finish_transpose(const Transpose p, const Key* sorted, const Key* rows) {
  const int64_t x = thread_in_grid();
  if (x < p.A.nnz && p.A.rows > 0) static_cast<Key*>(p.col)[x] = rows[static_cast<const Key*>(p.perm)[x]];
  if (x <= p.A.cols)
    store_index(p.crow, p.A.wide, x,
                lower_bound(p.A.nnz, x, [&](int64_t e) { return static_cast<int64_t>(sorted[e]); }));
}

template <class Key>
cudaError_t transpose_by(const Transpose& p, const SparseSession& session) {
  Passes passes = plan_passes<Key>(p.A.nnz, bits_for(p.A.cols));
  Key* const sorted = session.array<Key>(p.A.nnz);
  Key* const rows = p.A.crow != nullptr ? session.array<Key>(p.A.nnz) : nullptr;
  MYOPS_CUDA_TRY(allocate_words(&passes, session));
  const int64_t row_blocks = blocks_of(p.A.rows, kTileKeys<Key>);
  MYOPS_CUDA_TRY(launch_kernel(&look_at_pattern<Key>, grid_of(passes.tiles > row_blocks ? passes.tiles : row_blocks),
                               dim3(kSortThreads), 0, session.stream, p.A, passes, rows, session.findings));
  if (p.A.nnz > 0)
    MYOPS_CUDA_TRY(
        launch_passes(static_cast<const Key*>(p.A.col), p.A.nnz, passes, sorted, static_cast<Key*>(p.perm), session));
  const int64_t items = p.A.nnz > p.A.cols + 1 ? p.A.nnz : p.A.cols + 1;
  return launch_kernel(&finish_transpose<Key>, grid_of(blocks_of(items, kThreads)), dim3(kThreads), 0, session.stream,
                       p, sorted, p.A.crow != nullptr ? rows : static_cast<const Key*>(p.row));
}

}  // namespace

cudaError_t launch_exclusive_scan(int64_t* data, int64_t count, const SparseSession& session) {
  Word* const words = session.array<Word>(scan_words(count));
  MYOPS_CUDA_TRY(cudaMemsetAsync(words, 0, scan_words(count) * sizeof(Word), session.stream));
  return launch_scan(Same{data}, count, words, data, session);
}

template <class Key>
cudaError_t launch_sort(const Key* keys, int64_t count, int bits, Key* to, Key* order, const SparseSession& session) {
  if (count == 0) return cudaSuccess;
  Passes passes = plan_passes<Key>(count, bits);
  MYOPS_CUDA_TRY(allocate_words(&passes, session));
  MYOPS_CUDA_TRY(launch_kernel(&count_digits<Key>, grid_of(passes.tiles), dim3(kSortThreads), 0, session.stream, keys,
                               count, passes));
  return launch_passes(keys, count, passes, to, order, session);
}

template cudaError_t launch_sort(const uint32_t*, int64_t, int, uint32_t*, uint32_t*, const SparseSession&);
template cudaError_t launch_sort(const uint64_t*, int64_t, int, uint64_t*, uint64_t*, const SparseSession&);

cudaError_t launch_check(const Csr& A, const SparseSession& session) {
  const int64_t items = A.nnz > A.rows ? A.nnz : A.rows;
  return launch_kernel(&check_pattern, grid_of(blocks_of(items, kThreads)), dim3(kThreads), 0, session.stream, A,
                       session.findings);
}

cudaError_t launch_compress_rows(const CompressRows& p, const SparseSession& session) {
  const cudaError_t error = launch_kernel(&check_rows, grid_of(blocks_of(p.nnz, kThreads)), dim3(kThreads), 0,
                                          session.stream, p, session.findings);
  return error == cudaSuccess ? launch_start_rows(p, session) : error;
}

cudaError_t launch_transpose(const Transpose& p, const SparseSession& session) {
  return p.A.wide ? transpose_by<uint64_t>(p, session) : transpose_by<uint32_t>(p, session);
}

Status status_of(unsigned findings) {
  Status status = Status::ok;
  for (const Status s : {Status::too_many_entries, Status::bad_col, Status::bad_crow})
    if (findings >> static_cast<int>(s) & 1) status = s;
  return status;
}

cudaError_t read_findings(const SparseSession& session, Status* status) {
  unsigned bits = 0;
  cudaError_t error = cudaMemcpyAsync(&bits, session.findings, sizeof(bits), cudaMemcpyDeviceToHost, session.stream);
  if (error == cudaSuccess) error = cudaStreamSynchronize(session.stream);
  *status = status_of(bits);
  return error;
}

}  // namespace myops
