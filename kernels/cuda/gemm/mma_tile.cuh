// One tiled matrix product on tensor cores, for 16-bit floats and 8-bit integers: mma.sync with cp.async (sm_80).
//
// Not here: wgmma (Hopper's own), operands that are not aligned (pack.cuh makes them so first), float32, which stays
// exact on ordinary instructions (tile.cuh).
//
// Contract: each operand has a unit stride, along K or along its lines (16-bit only), and everything else about it is a
// multiple of 16 bytes. Reads stay inside the operands; the edge of a tile is filled with zeros by the copy itself.
//
//   A tile of K is 64 bytes deep. A stage of shared memory has, for an operand that runs along K, a row of 64 bytes per
//   line; else a row of all lines per value of K. Rows are 16 bytes longer than that, so that the eight rows which
//   ldmatrix reads at once lie in different banks. kStages - 1 tiles are under way while one is multiplied.
//
// Every result is summed in steps of 32 bytes of K, ascending, in one accumulator: for a dtype, bits do not depend on
// the tile, the layout, M, N or the batch.
#pragma once
#include "../async_copy.cuh"
#include "../element.cuh"
#include "../mma.cuh"
#include "epilogue.cuh"
#include "gemm.h"

namespace myops {

constexpr int kMmaStages = 4;

template <DType kIn, TileSize kSize>
struct MmaLayout {
  using In = typename Element<kIn>::Type;
  using Acc = typename Element<kIn>::Acc;
  static constexpr MmaShape kShape = mma_shape(kSize);
  static constexpr int kThreads = 32 * kShape.warps_m * kShape.warps_n;
  static constexpr int kDepthBytes = 64, kDepth = kDepthBytes / sizeof(In);  // of K, in a stage
  static constexpr int kWarpM = kShape.m / kShape.warps_m, kWarpN = kShape.n / kShape.warps_n;

  static constexpr int pitch(int lines, bool along_k) {
    return (along_k ? kDepthBytes : lines * static_cast<int>(sizeof(In))) + 16;
  }
  static constexpr int operand_bytes(int lines) {  // the larger of the two layouts
    const int along_k = lines * pitch(lines, true), along_lines = kDepth * pitch(lines, false);
    return along_k > along_lines ? along_k : along_lines;
  }
  static constexpr int kBytesA = operand_bytes(kShape.m), kStageBytes = kBytesA + operand_bytes(kShape.n);
  static constexpr int kResultPitch = kShape.n + 4;  // of the sums, which take the place of the stages at the end
  static constexpr int kStagesBytes = kMmaStages * kStageBytes;
  static constexpr int kResultBytes = kShape.m * kResultPitch * static_cast<int>(sizeof(Acc));
  static constexpr int kSharedBytes = kStagesBytes > kResultBytes ? kStagesBytes : kResultBytes;

  static_assert(kWarpM % 16 == 0 && kWarpN % 16 == 0, "a warp takes whole fragments of A, and pairs of them of B");
  static_assert(kSharedBytes <= 227 * 1024, "shared memory of a block");
};

// A thread's share of the copies of one operand: kLines lines (rows of A, columns of B) by 64 bytes of K.
template <class In, int kLines, bool kAlongK, int kThreads>
struct MmaLoader {
  static constexpr int kChunk = 16 / sizeof(In);  // elements of one copy
  static constexpr int kDepth = 64 / sizeof(In);
  static constexpr int kRow = (kAlongK ? kDepth : kLines) / kChunk;  // copies in a row of shared memory
  static constexpr int kCount = kLines * kDepth / kChunk / kThreads;
  static constexpr int kPitch = (kAlongK ? 64 : kLines * static_cast<int>(sizeof(In))) + 16;
  static_assert(kLines * kDepth % (kChunk * kThreads) == 0, "every thread copies the same number of chunks");

  const In* base;        // of the tile's first line, k = 0
  int64_t other_stride;  // between rows of shared memory
  int64_t lines;         // that exist from the first on

  __device__ __forceinline__ void load(char* stage, int64_t k0, int64_t k_size) const {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int copy = static_cast<int>(threadIdx.x) + i * kThreads;
      const int row = copy / kRow, at = copy % kRow * kChunk;
      const int64_t line = kAlongK ? row : at, k = k0 + (kAlongK ? at : row);
      const int64_t left = kAlongK ? k_size - k : lines - line;
      const bool exists = line < lines && k < k_size;
      const In* address = base + (kAlongK ? line * other_stride + k : line + k * other_stride);
      async_copy16(stage + row * kPitch + at * static_cast<int>(sizeof(In)), exists ? address : base,
                   exists ? static_cast<int>(left < kChunk ? left : kChunk) * static_cast<int>(sizeof(In)) : 0);
    }
  }
};

// Two neighbouring fragments' worth of rows for ldmatrix: 16 lines by 32 bytes of K that begin at (line, k_bytes).
// kOperandA: its registers are [k half][line half], those of B [line half][k half].
template <bool kAlongK, bool kOperandA>
__device__ __forceinline__ void load_fragment(uint32_t (&r)[4], const char* stage, int pitch, int line, int k_bytes) {
  const int lane = static_cast<int>(threadIdx.x) % 32, low = lane % 8, mid = lane / 8 % 2, high = lane / 16;
  const int line_half = kOperandA ? mid : high, k_half = kOperandA ? high : mid;
  if constexpr (kAlongK)
    load_matrices(r, stage + (line + 8 * line_half + low) * pitch + k_bytes + 16 * k_half);
  else  // 16-bit elements: 16 bytes of K are 8 rows
    load_matrices_transposed(r, stage + (k_bytes / 2 + 8 * k_half + low) * pitch + (line + 8 * line_half) * 2);
}

template <DType kIn, TileSize kSize, bool kAAlongK, bool kBAlongK>
__global__ void __launch_bounds__(MmaLayout<kIn, kSize>::kThreads)
    gemm_mma(const __grid_constant__ Gemm g, const __grid_constant__ GemmPlan plan) {
  using Layout = MmaLayout<kIn, kSize>;
  using In = typename Layout::In;
  using Acc = typename Layout::Acc;
  constexpr MmaShape shape = Layout::kShape;
  constexpr int kTilesM = Layout::kWarpM / 16, kTilesN = Layout::kWarpN / 8;
  using LoaderA = MmaLoader<In, shape.m, kAAlongK, Layout::kThreads>;
  using LoaderB = MmaLoader<In, shape.n, kBAlongK, Layout::kThreads>;
  char* const stages = dynamic_shared<char>();

  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int warp_m = warp / shape.warps_n * Layout::kWarpM, warp_n = warp % shape.warps_n * Layout::kWarpN;
  const int64_t steps = (g.K + Layout::kDepth - 1) / Layout::kDepth;

  for (int64_t index = blockIdx.x; index < plan.tiles; index += gridDim.x) {
    const TileIndex tile = tile_at(index, plan.tiles_m, plan.tiles_n);
    const int64_t row0 = tile.m * shape.m, col0 = tile.n * shape.n;
    const LoaderA a{static_cast<const In*>(g.A.data) + batch_offset(g, g.A, tile.item) + row0 * g.A.row_stride,
                    kAAlongK ? g.A.row_stride : g.A.col_stride, g.M - row0};
    const LoaderB b{static_cast<const In*>(g.B.data) + batch_offset(g, g.B, tile.item) + col0 * g.B.col_stride,
                    kBAlongK ? g.B.col_stride : g.B.row_stride, g.N - col0};
    // An empty group where there is nothing left keeps the count that async_wait goes by.
    const auto load_step = [&](int64_t step) {
      if (step < steps) {
        char* stage = stages + step % kMmaStages * Layout::kStageBytes;
        a.load(stage, step * Layout::kDepth, g.K);
        b.load(stage + Layout::kBytesA, step * Layout::kDepth, g.K);
      }
      async_commit();
    };
    Acc acc[kTilesM][kTilesN][4] = {};
    for (int step = 0; step < kMmaStages - 1; ++step) load_step(step);

    for (int64_t step = 0; step < steps; ++step) {
      async_wait<kMmaStages - 2>();
      __syncthreads();  // this step has arrived for all; all are done with the stage that the next copies overwrite
      load_step(step + kMmaStages - 1);
      const char* a_stage = stages + step % kMmaStages * Layout::kStageBytes;
      const char* b_stage = a_stage + Layout::kBytesA;
#pragma unroll
      for (int k_bytes = 0; k_bytes < Layout::kDepthBytes; k_bytes += 32) {
        uint32_t a_fragments[kTilesM][4], b_fragments[kTilesN / 2][4];
#pragma unroll
        for (int i = 0; i < kTilesM; ++i)
          load_fragment<kAAlongK, true>(a_fragments[i], a_stage, LoaderA::kPitch, warp_m + 16 * i, k_bytes);
#pragma unroll
        for (int j = 0; j < kTilesN / 2; ++j)
          load_fragment<kBAlongK, false>(b_fragments[j], b_stage, LoaderB::kPitch, warp_n + 16 * j, k_bytes);
#pragma unroll
        for (int i = 0; i < kTilesM; ++i)
#pragma unroll
          for (int j = 0; j < kTilesN; ++j) {
            const uint32_t (&pair)[4] = b_fragments[j / 2];
            const uint32_t b_fragment[2] = {pair[j % 2 * 2], pair[j % 2 * 2 + 1]};
            WarpMma<In>::add(acc[i][j], a_fragments[i], b_fragment);
          }
      }
    }
    __syncthreads();  // the copies have all arrived: the last groups were empty

    // Through shared memory, so that the stores to D are rows.
    Acc* const result = reinterpret_cast<Acc*>(stages);
#pragma unroll
    for (int i = 0; i < kTilesM; ++i)
#pragma unroll
      for (int j = 0; j < kTilesN; ++j)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int row = warp_m + 16 * i + 8 * half + lane / 4, col = warp_n + 8 * j + lane % 4 * 2;
          const Pack<Acc, 2> pair = {{acc[i][j][2 * half], acc[i][j][2 * half + 1]}};
          shared_store(reinterpret_cast<Pack<Acc, 2>*>(&result[row * Layout::kResultPitch + col]), pair);
        }
    __syncthreads();
    const Epilogue<kIn> epilogue(g, tile.item);
    constexpr int kQuads = shape.n / 4;
    for (int i = thread; i < shape.m * kQuads; i += Layout::kThreads) {
      const int row = i / kQuads, col = i % kQuads * 4;
      Pack<Acc, 4> sums = shared_load(reinterpret_cast<const Pack<Acc, 4>*>(&result[row * Layout::kResultPitch + col]));
      epilogue.store(sums.v, row0 + row, col0 + col);
    }
    __syncthreads();
  }
}

template <DType kIn, TileSize kSize>
cudaError_t launch_mma_size(const Gemm& g, const GemmPlan& plan, cudaStream_t stream) {
  using Layout = MmaLayout<kIn, kSize>;
  auto* kernel = &gemm_mma<kIn, kSize, true, true>;
  if constexpr (sizeof(typename Layout::In) == 2) {
    if (!plan.a_along_k && plan.b_along_k) kernel = &gemm_mma<kIn, kSize, false, true>;
    if (plan.a_along_k && !plan.b_along_k) kernel = &gemm_mma<kIn, kSize, true, false>;
    if (!plan.a_along_k && !plan.b_along_k) kernel = &gemm_mma<kIn, kSize, false, false>;
  }
  return launch_kernel(kernel, dim3(static_cast<unsigned>(plan.blocks)), dim3(Layout::kThreads), Layout::kSharedBytes,
                       stream, g, plan);
}

template <DType kIn>
cudaError_t launch_mma_type(const Gemm& g, const GemmPlan& plan, cudaStream_t stream) {
  return plan.size == TileSize::small ? launch_mma_size<kIn, TileSize::small>(g, plan, stream)
                                      : launch_mma_size<kIn, TileSize::large>(g, plan, stream);
}

}  // namespace myops
