// What the threads of one block do together, and what blocks tell each other: sums over those before.
//
// Between blocks, by look-back: a block that begins takes the next tile, so all tiles before are done or at work, and
// publishes the sum of its own; then it adds up those of the tiles before it, back to the first that knows the sum of
// all before itself. One launch, one walk over the data. A word is written by one store and says itself what it is, so
// no fence is needed.
#pragma once
#include "pattern.cuh"

namespace myops {

struct BlockSums {
  int64_t warp[kWarpSize];
};

// The sum of x over the threads before this one; total: over all. The barriers stand so that calls may follow each
// other; all threads of the block have to come, whole warps of them.
__device__ __forceinline__ int64_t sum_of_threads_before(int64_t x, int64_t& total, BlockSums& shared) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int warps = static_cast<int>(blockDim.x) / kWarpSize;
  int64_t sum = x;
  for (int step = 1; step < kWarpSize; step *= 2) {
    const int64_t before = __shfl_up_sync(kAllLanes, sum, step);
    if (lane >= step) sum += before;
  }
  __syncthreads();
  if (lane == kWarpSize - 1) shared_store(&shared.warp[warp], sum);
  __syncthreads();
  int64_t before = sum - x;
  total = 0;
  for (int w = 0; w < warps; ++w) {
    const int64_t of_warp = shared_load(&shared.warp[w]);
    if (w < warp) before += of_warp;
    total += of_warp;
  }
  return before;
}

// Looks at row i and at entry i, where there are such.
__device__ __forceinline__ void check_item(const Csr& A, int64_t i, unsigned* findings) {
  if (A.rows == 0 && i == 0 && (load_index(A.crow, A.wide, 0) != 0 || A.nnz != 0)) report(findings, Status::bad_crow);
  if (i < A.rows) row_range(A, i, findings);
  if (i < A.nnz && !inside(load_index(A.col, A.wide, i), A.cols)) report(findings, Status::bad_col);
}

// ---- Look-back ------------------------------------------------------------------------------------------------------

// 0: not there yet. Else the sum of one tile or of all up to it, below 2^62.
using Word = unsigned long long;
constexpr Word kOfTile = Word(1) << 62, kOfAll = Word(1) << 63, kSum = kOfTile - 1;

__device__ __forceinline__ Word read_word(const Word* word) { return *static_cast<const volatile Word*>(word); }
__device__ __forceinline__ void write_word(Word* word, Word value) { *static_cast<volatile Word*>(word) = value; }

// The sum over the tiles before this one, whose own is `sum`; words: one a tile. For a whole warp.
__device__ __forceinline__ int64_t sum_of_tiles_before(Word* words, int64_t tile, int64_t sum) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  if (lane == 0) write_word(&words[tile], (tile == 0 ? kOfAll : kOfTile) | static_cast<Word>(sum));
  int64_t before = 0;
  for (int64_t last = tile - 1; last >= 0; last -= kWarpSize) {
    Word word = kOfAll;  // before the first tile: nothing
    if (last >= lane) do
        word = read_word(&words[last - lane]);
      while (word == 0);
    const unsigned complete = __ballot_sync(kAllLanes, word >= kOfAll);
    const int nearest = complete == 0 ? kWarpSize : __ffs(static_cast<int>(complete)) - 1;
    int64_t part = lane <= nearest ? static_cast<int64_t>(word & kSum) : 0;
    for (int lanes = 1; lanes < kWarpSize; lanes *= 2) part += shuffle_xor(part, lanes);
    before += part;
    if (complete != 0) break;
  }
  if (lane == 0 && tile > 0) write_word(&words[tile], kOfAll | static_cast<Word>(before + sum));
  return before;
}

constexpr int kScanItems = 8;  // of a thread
constexpr int64_t kScanTile = kThreads * kScanItems;

inline int64_t scan_tiles(int64_t count) { return count <= kScanTile ? 1 : blocks_of(count, kScanTile); }
// The next tile, then one for each tile; zero before a scan.
inline int64_t scan_words(int64_t count) { return 1 + scan_tiles(count); }

// sums[i]: of number(0 .. i), for i = 0 .. count. `number` may read sums[i].
template <class Number>
__global__ void __launch_bounds__(kThreads)
    scan(const __grid_constant__ Number number, int64_t count, Word* words, int64_t* sums) {
  struct Shared {
    int64_t tile, before;
    int64_t warp[kThreads / kWarpSize];
  };
  Shared& shared = shared_storage<Shared>();
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, warp = static_cast<int>(threadIdx.x) / kWarpSize;
  if (threadIdx.x == 0) shared_store(&shared.tile, static_cast<int64_t>(atomicAdd(words, Word(1))));
  __syncthreads();
  const int64_t tile = shared_load(&shared.tile);
  const int64_t first = tile * kScanTile + warp * kScanItems * kWarpSize + lane;
  int64_t before[kScanItems], of_warp = 0;
#pragma unroll
  for (int i = 0; i < kScanItems; ++i) before[i] = first + i * kWarpSize < count ? number(first + i * kWarpSize) : 0;
#pragma unroll
  for (int i = 0; i < kScanItems; ++i) {
    int64_t sum = before[i];
    for (int step = 1; step < kWarpSize; step *= 2) {
      const int64_t of_lane = __shfl_up_sync(kAllLanes, sum, step);
      if (lane >= step) sum += of_lane;
    }
    before[i] = of_warp + sum - before[i];
    of_warp += __shfl_sync(kAllLanes, sum, kWarpSize - 1);
  }
  if (lane == 0) shared_store(&shared.warp[warp], of_warp);
  __syncthreads();
  int64_t start = 0, all = 0;
  for (int w = 0; w < kThreads / kWarpSize; ++w) {
    const int64_t sum = shared_load(&shared.warp[w]);
    if (w < warp) start += sum;
    all += sum;
  }
  if (warp == 0) {
    const int64_t sum = sum_of_tiles_before(words + 1, tile, all);
    if (lane == 0) shared_store(&shared.before, sum);
  }
  __syncthreads();
  const int64_t of_tiles = shared_load(&shared.before);
#pragma unroll
  for (int i = 0; i < kScanItems; ++i)
    if (first + i * kWarpSize < count) sums[first + i * kWarpSize] = of_tiles + start + before[i];
  if (threadIdx.x == 0 && (tile + 1) * kScanTile >= count) sums[count] = of_tiles + all;
}

// words: scan_words(count) zeros.
template <class Number>
cudaError_t launch_scan(const Number& number, int64_t count, Word* words, int64_t* sums, const SparseSession& session) {
  return launch_kernel(&scan<Number>, grid_of(scan_tiles(count)), dim3(kThreads), 0, session.stream, number, count,
                       words, sums);
}

struct Same {
  const int64_t* numbers;
  __device__ __forceinline__ int64_t operator()(int64_t i) const { return numbers[i]; }
};

}  // namespace myops
