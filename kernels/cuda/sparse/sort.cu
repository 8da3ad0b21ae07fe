#include "sort.h"

#include "block.cuh"

namespace myops {
namespace {

constexpr int kWarps = kThreads / kWarpSize;

// ---- Sums over prefixes: tiles, then the sums of tiles by one block, then tiles again -------------------------------

constexpr int kScanItems = 8;  // of a thread
constexpr int64_t kScanTile = kThreads * kScanItems;

// sums[t]: of tile t.
__global__ void __launch_bounds__(kThreads) sum_tiles(const int64_t* data, int64_t count, int64_t* sums) {
  BlockSums& shared = shared_storage<BlockSums>();
  const int64_t tile = blockIdx.x;
  int64_t sum = 0, total;
  for (int i = 0; i < kScanItems; ++i) {
    const int64_t at = tile * kScanTile + i * kThreads + threadIdx.x;
    if (at < count) sum += data[at];
  }
  sum_of_threads_before(sum, total, shared);
  if (threadIdx.x == 0) sums[tile] = total;
}

// One block: sums becomes the sums over prefixes, *all the sum of everything.
__global__ void __launch_bounds__(kThreads) scan_sums(int64_t* sums, int64_t tiles, int64_t* all) {
  BlockSums& shared = shared_storage<BlockSums>();
  int64_t before = 0;
  for (int64_t first = 0; first < tiles; first += kThreads) {
    const int64_t at = first + threadIdx.x, x = at < tiles ? sums[at] : 0;
    int64_t total;
    const int64_t sum = sum_of_threads_before(x, total, shared);
    if (at < tiles) sums[at] = before + sum;
    before += total;
  }
  if (threadIdx.x == 0) *all = before;
}

__global__ void __launch_bounds__(kThreads) scan_tiles(int64_t* data, int64_t count, const int64_t* sums) {
  BlockSums& shared = shared_storage<BlockSums>();
  const int64_t tile = blockIdx.x;
  int64_t before = sums[tile];
  for (int i = 0; i < kScanItems; ++i) {
    const int64_t at = tile * kScanTile + i * kThreads + threadIdx.x, x = at < count ? data[at] : 0;
    int64_t total;
    const int64_t sum = sum_of_threads_before(x, total, shared);
    if (at < count) data[at] = before + sum;
    before += total;
  }
}

// ---- Radix sort: count digits, place the counts, move ---------------------------------------------------------------

constexpr int kDigits = 1 << kDigitBits;
constexpr int kSortItems = 16;                        // of a thread
constexpr int64_t kSortTile = kThreads * kSortItems;  // keys of a block
static_assert(kDigits == kThreads, "thread d keeps the count of digit d");

template <class Key>
__device__ __forceinline__ int digit_of(Key key, int shift) {
  return static_cast<int>(key >> shift) & (kDigits - 1);
}

struct DigitCounts {
  unsigned of[kWarps][kDigits];
};

// counts[d * tiles + t]: keys of tile t with digit d.
template <class Key>
__global__ void __launch_bounds__(kThreads)
    count_digits(const Key* keys, int64_t count, int shift, int64_t tiles, int64_t* counts) {
  struct Shared {
    unsigned of[kDigits];
  };
  Shared& shared = shared_storage<Shared>();
  const int64_t tile = blockIdx.x;
  shared_store(&shared.of[threadIdx.x], 0u);
  __syncthreads();
  for (int i = 0; i < kSortItems; ++i) {
    const int64_t at = tile * kSortTile + i * kThreads + threadIdx.x;
    if (at < count) atomicAdd(&shared.of[digit_of(keys[at], shift)], 1u);
  }
  __syncthreads();
  counts[threadIdx.x * tiles + tile] = shared_load(&shared.of[threadIdx.x]);
}

// Moves each key to its place: those before it in its warp's part of the tile are counted as the warp walks, 32 at a
// time; those of earlier warps, tiles and digits come out of the counts. order == nullptr: the keys' own numbers.
template <class Key>
__global__ void __launch_bounds__(kThreads) move_keys(const Key* keys, const Key* order, int64_t count, int shift,
                                                      int64_t tiles, const int64_t* places, Key* to, Key* order_to) {
  DigitCounts& shared = shared_storage<DigitCounts>();
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, warp = static_cast<int>(threadIdx.x) / kWarpSize;
  constexpr int kNone = kDigits;  // the digit of lanes behind the last key
  const int64_t tile = blockIdx.x;
  for (int w = 0; w < kWarps; ++w) shared_store(&shared.of[w][threadIdx.x], 0u);
  __syncthreads();
  const int64_t first = tile * kSortTile + warp * kSortItems * kWarpSize + lane;
  unsigned before[kSortItems];  // the keys are read again below: as many registers would spill
#pragma unroll
  for (int i = 0; i < kSortItems; ++i) {
    const int64_t at = first + i * kWarpSize;
    const int digit = at < count ? digit_of(keys[at], shift) : kNone;
    const unsigned same = __match_any_sync(kAllLanes, digit);
    const int rank = __popc(same & ((1u << lane) - 1));
    before[i] = digit == kNone ? 0 : shared_load(&shared.of[warp][digit]) + rank;
    __syncwarp();
    if (rank == 0 && digit != kNone) shared_store(&shared.of[warp][digit], before[i] + __popc(same));
    __syncwarp();
  }
  __syncthreads();
  unsigned sum = 0;
  for (int w = 0; w < kWarps; ++w) {
    const unsigned of_warp = shared_load(&shared.of[w][threadIdx.x]);
    shared_store(&shared.of[w][threadIdx.x], sum);
    sum += of_warp;
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kSortItems; ++i) {
    const int64_t at = first + i * kWarpSize;
    if (at >= count) continue;
    const Key key = keys[at];
    const int digit = digit_of(key, shift);
    const int64_t place = places[digit * tiles + tile] + shared_load(&shared.of[warp][digit]) + before[i];
    to[place] = key;
    order_to[place] = order == nullptr ? static_cast<Key>(at) : order[at];
  }
}

// ---- Patterns -------------------------------------------------------------------------------------------------------

__global__ void __launch_bounds__(kThreads) check_pattern(const Csr A, unsigned* findings) {
  if (A.rows == 0 && thread_in_grid() == 0 && (load_index(A.crow, A.wide, 0) != 0 || A.nnz != 0))
    report(findings, Status::bad_crow);
  if (const int64_t i = thread_in_grid(); i < A.rows) row_range(A, i, findings);
  if (const int64_t e = thread_in_grid(); e < A.nnz)
    if (!inside(load_index(A.col, A.wide, e), A.cols)) report(findings, Status::bad_col);
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

// The rows of the entries in their new order.
__global__ void __launch_bounds__(kThreads) gather_rows(const Transpose p) {
  if (const int64_t x = thread_in_grid(); x < p.A.nnz) {
    const int64_t e = load_index(p.perm, p.A.wide, x);
    store_index(p.col, p.A.wide, x,
                lower_bound(p.A.rows - 1, e + 1, [&](int64_t i) { return load_index(p.A.crow, p.A.wide, i + 1); }));
  }
}

template <class Key>
cudaError_t transpose_by(const Transpose& p, const SparseSession& session) {
  Key* const sorted = session.array<Key>(p.A.nnz);
  cudaError_t error = launch_sort(static_cast<const Key*>(p.A.col), p.A.nnz, bits_for(p.A.cols), sorted,
                                  static_cast<Key*>(p.perm), session);
  CompressRows rows;
  rows.row = sorted;
  rows.nnz = p.A.nnz;
  rows.rows = p.A.cols;
  rows.wide = p.A.wide;
  rows.crow = p.crow;
  if (error == cudaSuccess) error = launch_start_rows(rows, session);
  if (error != cudaSuccess || p.A.nnz == 0 || p.A.rows == 0) return error;
  return launch_kernel(&gather_rows, grid_of(blocks_of(p.A.nnz, kThreads)), dim3(kThreads), 0, session.stream, p);
}

}  // namespace

cudaError_t launch_exclusive_scan(int64_t* data, int64_t count, const SparseSession& session) {
  const int64_t tiles = blocks_of(count, kScanTile);
  int64_t* const sums = session.array<int64_t>(tiles);
  const dim3 grid = grid_of(tiles), block(kThreads);
  cudaError_t error = launch_kernel(&sum_tiles, grid, block, 0, session.stream, data, count, sums);
  if (error == cudaSuccess)
    error = launch_kernel(&scan_sums, dim3(1), block, 0, session.stream, sums, tiles, data + count);
  if (error == cudaSuccess) error = launch_kernel(&scan_tiles, grid, block, 0, session.stream, data, count, sums);
  return error;
}

template <class Key>
cudaError_t launch_sort(const Key* keys, int64_t count, int bits, Key* to, Key* order, const SparseSession& session) {
  const int64_t tiles = blocks_of(count, kSortTile);
  if (tiles == 0) return cudaSuccess;
  const int passes = bits <= kDigitBits ? 1 : (bits + kDigitBits - 1) / kDigitBits;
  Key* const other = passes > 1 ? session.array<Key>(count) : nullptr;
  Key* const other_order = passes > 1 ? session.array<Key>(count) : nullptr;
  int64_t* const places = session.array<int64_t>(kDigits * tiles + 1);
  const Key* from = keys;
  const Key* from_order = nullptr;
  for (int pass = 0; pass < passes; ++pass) {
    const bool last_half = (passes - 1 - pass) % 2 == 0;  // so that the last pass writes the results
    Key* const to_keys = last_half ? to : other;
    Key* const to_order = last_half ? order : other_order;
    const int shift = pass * kDigitBits;
    cudaError_t error = launch_kernel(&count_digits<Key>, grid_of(tiles), dim3(kThreads), 0, session.stream, from,
                                      count, shift, tiles, places);
    if (error == cudaSuccess) error = launch_exclusive_scan(places, kDigits * tiles, session);
    if (error == cudaSuccess)
      error = launch_kernel(&move_keys<Key>, grid_of(tiles), dim3(kThreads), 0, session.stream, from, from_order, count,
                            shift, tiles, places, to_keys, to_order);
    if (error != cudaSuccess) return error;
    from = to_keys;
    from_order = to_order;
  }
  return cudaSuccess;
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
  const cudaError_t error = launch_check(p.A, session);
  if (error != cudaSuccess) return error;
  return p.A.wide ? transpose_by<uint64_t>(p, session) : transpose_by<uint32_t>(p, session);
}

cudaError_t read_findings(const SparseSession& session, Status* status) {
  unsigned bits = 0;
  cudaError_t error = cudaMemcpyAsync(&bits, session.findings, sizeof(bits), cudaMemcpyDeviceToHost, session.stream);
  if (error == cudaSuccess) error = cudaStreamSynchronize(session.stream);
  *status = Status::ok;
  for (const Status s : {Status::too_many_entries, Status::bad_col, Status::bad_crow})
    if (bits >> static_cast<int>(s) & 1) *status = s;
  return error;
}

}  // namespace myops
