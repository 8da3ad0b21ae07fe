// One tiled matrix product on tensor cores, for 16-bit floats, 8-bit integers, and float32 rounded to TF32: mma.sync
// with cp.async (sm_80).
//
// Not here: wgmma (Hopper's own), operands that are not aligned (pack.cu makes them so first), float32 that stays
// exact, on ordinary instructions (tile.cuh).
//
// Contract: each operand has a unit stride, along K or along its lines (16-bit only), and everything else about it is a
// multiple of 16 bytes. Reads stay inside the operands; the edge of a tile is filled with zeros by the copy itself.
//
//   A tile of K is 128 bytes deep: four slices of 32 bytes, one instruction's. A stage of shared memory has, for an
//   operand that runs along K, a row of 128 bytes per line; else a row of all lines per value of K. The 16-byte chunks
//   of a row are exchanged (chunk c of row r is at c ^ r % 8), so that the eight rows which ldmatrix reads at once lie
//   in different banks. kStages - 1 tiles are under way while one is multiplied, and the fragments of a slice are read
//   while the slice before it is multiplied.
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

template <DType kIn, TileSize kSize>
struct MmaLayout {
  using In = typename Element<kIn>::Type;
  using Acc = typename Element<kIn>::Acc;
  static constexpr MmaShape kShape = mma_shape(kSize);
  static constexpr int kThreads = 32 * kShape.warps_m * kShape.warps_n;
  static constexpr int kDepthBytes = 128, kDepth = kDepthBytes / sizeof(In);  // of K, in a stage
  static constexpr int kWarpM = kShape.m / kShape.warps_m, kWarpN = kShape.n / kShape.warps_n;
  static constexpr int kBytesA = kShape.m * kDepthBytes, kStageBytes = kBytesA + kShape.n * kDepthBytes;
  static constexpr int kStages = 96 * 1024 / kStageBytes;  // two blocks to a multiprocessor of a Hopper
  // Of the sums, which take the place of the stages at the end. Four rows of eight columns lie in different banks.
  static constexpr int kResultPitch = kShape.n + 8;
  static constexpr int kResultBytes = kShape.m * kResultPitch * static_cast<int>(sizeof(Acc));

  static_assert(kWarpM % 16 == 0 && kWarpN % 16 == 0, "a warp takes whole fragments of A, and pairs of them of B");
  static_assert(kResultBytes <= kStages * kStageBytes, "sums fit in the stages");

  // Stages that a short K leaves unused are not asked for, and more blocks fit on a multiprocessor.
  static constexpr int shared_bytes(int64_t k) {
    const int64_t steps = ceil_divide(k, kDepth);
    const int stages = static_cast<int>(steps < kStages ? steps : kStages) * kStageBytes;
    return stages > kResultBytes ? stages : kResultBytes;
  }
};

// A thread's share of the copies of one operand: kLines lines (rows of A, columns of B) by 128 bytes of K.
template <class In, int kLines, bool kAlongK, int kThreads>
struct MmaLoader {
  static constexpr int kSize = sizeof(In), kDepth = 128 / kSize;
  static constexpr int kRows = kAlongK ? kLines : kDepth, kRowBytes = kAlongK ? 128 : kLines * kSize;
  static constexpr int kChunks = kRowBytes / 16;       // of a row
  static constexpr int kRowStep = kThreads / kChunks;  // from one copy of a thread to its next
  static constexpr int kCount = kRows / kRowStep;
  static_assert(kThreads % kChunks == 0 && kRowStep % 8 == 0 && kRows % kRowStep == 0,
                "all copies are exchanged alike");

  const In* next;         // this thread's first chunk in the next step of K
  int64_t pass, advance;  // from one copy to the next, from one step to the next
  int row, at;            // this thread's first row, and the first element of its chunks
  int target;             // where its first chunk goes
  int lines;              // that exist

  __device__ __forceinline__ MmaLoader(const In* base, int64_t row_stride, int64_t lines_left)
      : pass(kRowStep * row_stride),
        advance(kAlongK ? kDepth : kDepth * row_stride),
        lines(lines_left < kLines ? static_cast<int>(lines_left) : kLines) {
    const int thread = static_cast<int>(threadIdx.x), chunk = thread % kChunks;
    row = thread / kChunks, at = chunk * (16 / kSize);
    next = base + row * row_stride + at;
    target = row * kRowBytes + ((chunk ^ row % 8) << 4);
  }

  // The next step of K, of which `depth` values exist.
  __device__ __forceinline__ void load(char* stage, int depth) {
    const int rows = kAlongK ? lines : depth, left = ((kAlongK ? depth : lines) - at) * kSize;
    const int bytes = left < 0 ? 0 : left < 16 ? left : 16;
    const In* address = next;
#pragma unroll 2
    for (int i = 0; i < kCount; ++i, address += pass) {
      async_copy16(stage + target + i * kRowStep * kRowBytes, address, row + i * kRowStep < rows ? bytes : 0);
    }
    next += advance;
  }
};

// What a lane gives ldmatrix for a fragment's worth of rows, 16 lines by a slice of K: an offset in its operand's
// stage. kOperandA: the registers are [k half][line half], those of B [line half][k half].
template <bool kAlongK, bool kOperandA, int kRowBytes>
struct FragmentReader {
  int lane_offset;

  __device__ __forceinline__ explicit FragmentReader(int line) {
    const int lane = static_cast<int>(threadIdx.x) % 32, low = lane % 8, mid = lane / 8 % 2, high = lane / 16;
    const int line_half = kOperandA ? mid : high, k_half = kOperandA ? high : mid;
    lane_offset = kAlongK ? (line + 8 * line_half + low) * kRowBytes + ((k_half ^ low) << 4)
                          : (8 * k_half + low) * kRowBytes + (((line / 8 + line_half) ^ low) << 4);
  }

  // 16 * i lines further, of slice s.
  __device__ __forceinline__ void load(uint32_t (&r)[4], const char* operand, int i, int s) const {
    if constexpr (kAlongK)
      load_matrices(r, operand + (lane_offset ^ s << 5) + i * 16 * kRowBytes);
    else  // 16-bit elements: a slice of K is 16 rows
      load_matrices_transposed(r, operand + (lane_offset ^ i << 5) + s * 16 * kRowBytes);
  }
};

template <DType kIn, TileSize kSize, bool kAAlongK, bool kBAlongK>
__global__ void __launch_bounds__(MmaLayout<kIn, kSize>::kThreads, 2)
    gemm_mma(const __grid_constant__ Gemm g, const __grid_constant__ GemmPlan plan) {
  using Layout = MmaLayout<kIn, kSize>;
  using In = typename Layout::In;
  using Acc = typename Layout::Acc;
  constexpr MmaShape shape = Layout::kShape;
  constexpr int kTilesM = Layout::kWarpM / 16, kTilesN = Layout::kWarpN / 8, kSlices = Layout::kDepthBytes / 32;
  constexpr int kStages = Layout::kStages, kStageBytes = Layout::kStageBytes;
  using LoaderA = MmaLoader<In, shape.m, kAAlongK, Layout::kThreads>;
  using LoaderB = MmaLoader<In, shape.n, kBAlongK, Layout::kThreads>;
  char* const stages = dynamic_shared<char>();

  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int warp_m = warp / shape.warps_n * Layout::kWarpM, warp_n = warp % shape.warps_n * Layout::kWarpN;
  const FragmentReader<kAAlongK, true, LoaderA::kRowBytes> reader_a(warp_m);
  const FragmentReader<kBAlongK, false, LoaderB::kRowBytes> reader_b(warp_n);
  const int steps = static_cast<int>((g.K + Layout::kDepth - 1) / Layout::kDepth);
  wait_for_previous_kernel();

  for (int64_t index = blockIdx.x; index < plan.tiles; index += gridDim.x) {
    const TileIndex tile = tile_at(index, plan.tiles_m, plan.tiles_n);
    const int64_t row0 = tile.m * shape.m, col0 = tile.n * shape.n;
    LoaderA a(static_cast<const In*>(g.A.data) + batch_offset(g, g.A, tile.item) + row0 * g.A.row_stride,
              kAAlongK ? g.A.row_stride : g.A.col_stride, g.M - row0);
    LoaderB b(static_cast<const In*>(g.B.data) + batch_offset(g, g.B, tile.item) + col0 * g.B.col_stride,
              kBAlongK ? g.B.col_stride : g.B.row_stride, g.N - col0);
    int64_t depth_left = g.K;  // that has not been asked for
    int write = 0, read = 0;   // offsets of stages
    const auto next_stage = [](int stage) { return stage == (kStages - 1) * kStageBytes ? 0 : stage + kStageBytes; };
    // An empty group where there is nothing left keeps the count that async_wait goes by.
    const auto load_step = [&] {
      if (depth_left > 0) {
        const int depth = depth_left < Layout::kDepth ? static_cast<int>(depth_left) : Layout::kDepth;
        a.load(stages + write, depth);
        b.load(stages + write + Layout::kBytesA, depth);
        depth_left -= Layout::kDepth;
        write = next_stage(write);
      }
      async_commit();
    };
    uint32_t a_fragments[2][kTilesM][4], b_fragments[2][kTilesN / 2][4];
    const auto load_slice = [&](int s) {
#pragma unroll
      for (int i = 0; i < kTilesM; ++i) reader_a.load(a_fragments[s % 2][i], stages + read, i, s);
#pragma unroll
      for (int j = 0; j < kTilesN / 2; ++j) reader_b.load(b_fragments[s % 2][j], stages + read + Layout::kBytesA, j, s);
    };
    Acc acc[kTilesM][kTilesN][4] = {};
#pragma unroll 1
    for (int stage = 0; stage < kStages - 1; ++stage) load_step();
    async_wait<kStages - 2>();
    __syncthreads();
    if (steps > 0) load_slice(0);

#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
#pragma unroll
      for (int s = 0; s < kSlices; ++s) {
        if (s == kSlices - 1) {
          async_wait<kStages - 2>();
          __syncthreads();  // the next step has arrived for all; all have read this one, whose stage is next to be
                            // written
          read = next_stage(read);
        }
        if (s < kSlices - 1 || step + 1 < steps) load_slice((s + 1) % kSlices);
        if (s == 0) load_step();
#pragma unroll
        for (int i = 0; i < kTilesM; ++i) {
          if constexpr (kIn == DType::f32) round_to_tf32(a_fragments[s % 2][i]);
#pragma unroll
          for (int j = 0; j < kTilesN; ++j) {
            if constexpr (kIn == DType::f32)
              if (i == 0 && j % 2 == 0) round_to_tf32(b_fragments[s % 2][j / 2]);
            const uint32_t (&pair)[4] = b_fragments[s % 2][j / 2];
            const uint32_t b_fragment[2] = {pair[j % 2 * 2], pair[j % 2 * 2 + 1]};
            WarpMma<In>::add(acc[i][j], a_fragments[s % 2][i], b_fragment);
          }
        }
      }
    }

    // Through shared memory, which no copy and no reader uses any more, so that the stores to D are rows.
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
#pragma unroll 1
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
  return launch_kernel_early(plan.early, kernel, dim3(static_cast<unsigned>(plan.blocks)), dim3(Layout::kThreads),
                             Layout::shared_bytes(g.K), stream, g, plan);
}

template <DType kIn>
cudaError_t launch_mma_type(const Gemm& g, const GemmPlan& plan, cudaStream_t stream) {
  return plan.size == TileSize::small ? launch_mma_size<kIn, TileSize::small>(g, plan, stream)
                                      : launch_mma_size<kIn, TileSize::large>(g, plan, stream);
}

}  // namespace myops
