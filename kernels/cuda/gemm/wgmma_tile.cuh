// One tiled matrix product of 16-bit floats on a Hopper: TMA, wgmma, warp-specialised, persistent.
//
// Not here: what makes operands fit for TMA (pack.cu), other dtypes and architectures (mma_tile.cuh, tile.cuh).
//
// Contract: each operand has a unit stride, along K or along its lines; base, pitch and batch strides are multiples of
// 16 bytes; at most three batch dimensions. TMA fills with zeros what lies beyond the operands.
//
//   A block has three warpgroups. The last one is the producer: one thread of it keeps kStages tiles of K (64 values)
//   under way. The others are consumers: each multiplies 64 rows of the tile by all its columns, and ends the tile with
//   the epilogue, while the producer already loads for the next tile. A stage goes round by two barriers:
//
//     full[s]    one arrival, by the producer, and the bytes of the stage     -> the consumers may read
//     empty[s]   one arrival of each consumer warp, once its wgmma is done    -> the producer may overwrite
//
//   One group of wgmma (a stage) is in flight while the next stage is waited for.
//
// Shared memory of an operand in a stage, rows of 128 bytes: along K, a row per line; along its lines, slabs of 64
// lines with a row per value of K. Every result is summed in steps of 16 values of K, ascending, in one accumulator:
// bits do not depend on the tile, M, N or the batch.
#pragma once
#include "../element.cuh"
#include "../hopper.cuh"
#include "epilogue.cuh"
#include "gemm.h"

namespace myops {

constexpr int kWgmmaConsumers = 2, kWgmmaThreads = 128 * (kWgmmaConsumers + 1);

template <int kTileN>
struct WgmmaLayout {
  static constexpr int kTileM = kWgmmaTileM, kDepth = 64, kRowBytes = 128, kLinesOfSlab = 64;
  static constexpr int kBytesA = kTileM * kRowBytes, kBytesB = kTileN * kRowBytes, kStageBytes = kBytesA + kBytesB;
  static constexpr int kSlabBytes = kDepth * kRowBytes;
  static constexpr int kStages = 192 * 1024 / kStageBytes;
  static constexpr int kBarriersAt = kStages * kStageBytes;
  static constexpr int kAlignment = 1024;  // of the swizzle; the launch asks for so much more
  static constexpr int kSharedBytes = kBarriersAt + 2 * kStages * static_cast<int>(sizeof(SharedBarrier)) + kAlignment;

  static_assert(kTileM == 64 * kWgmmaConsumers, "a consumer takes 64 rows");
  static_assert(kSharedBytes <= 227 * 1024, "shared memory of a block");
  static_assert(kStages >= 4, "fewer stages do not cover the latency of memory");
};

// The stages in turn; the parity of the phase in which each is next.
template <int kStages>
struct StageRing {
  int slot = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void advance() {
    if (++slot == kStages) slot = 0, parity ^= 1;
  }
};

// Copies one stage of one operand: `lines` lines from `line` on, 64 values of K from k on.
template <bool kAlongK, int kLines>
__device__ __forceinline__ void load_stage(char* target, const TensorMap* map, SharedBarrier* full, int32_t line,
                                           int32_t k, const int32_t (&batch)[3]) {
  if constexpr (kAlongK) {
    tma_load(target, map, full, {k, line, batch[0], batch[1], batch[2]});
  } else {
#pragma unroll
    for (int slab = 0; slab < kLines / 64; ++slab)
      tma_load(target + slab * 64 * 128, map, full, {line + 64 * slab, k, batch[0], batch[1], batch[2]});
  }
}

// 16 values of K from 16 * step on, of the lines that begin at `tile`.
template <bool kAlongK>
__device__ __forceinline__ uint64_t stage_descriptor(const char* tile, int step) {
  return kAlongK ? wgmma_descriptor(tile + 32 * step, 16, 1024) : wgmma_descriptor(tile + 2048 * step, 64 * 128, 1024);
}

// The batch coordinates of an item in an operand's map, where a broadcast dimension has one item.
__device__ __forceinline__ void batch_coordinates(const Gemm& g, const MatrixView& v, int64_t item, int32_t (&at)[3]) {
#pragma unroll
  for (int i = 2; i >= 0; --i) {
    at[i] = 0;
    if (i >= g.batch_dims) continue;
    const int64_t outer = item / g.batch_size[i];
    if (v.batch_stride[i] != 0) at[i] = static_cast<int32_t>(item - outer * g.batch_size[i]);
    item = outer;
  }
}

// A thread of four that share a row holds columns 2t, 2t + 1 of four tiles of 8 columns; afterwards it has all 8
// columns of tile t. Two rounds of a 4 x 4 transposition.
__device__ __forceinline__ void transpose_quad(float (&v)[8]) {
  const int t = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
  for (int bit = 1; bit <= 2; bit *= 2)
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int tile = i / 2, at = i % 2;
      if (tile & bit) continue;
      const float low = v[2 * tile + at], high = v[2 * (tile | bit) + at];
      const float received = __shfl_xor_sync(0xffffffffu, t & bit ? low : high, bit);
      v[2 * tile + at] = t & bit ? received : low;
      v[2 * (tile | bit) + at] = t & bit ? high : received;
    }
}

template <DType kIn, int kTileN, bool kAAlongK, bool kBAlongK>
__global__ void __launch_bounds__(kWgmmaThreads, 1)
    gemm_wgmma(const __grid_constant__ Gemm g, const __grid_constant__ GemmPlan plan,
               const __grid_constant__ TensorMap map_a, const __grid_constant__ TensorMap map_b) {
#if MYOPS_HOPPER_CODE
  using Layout = WgmmaLayout<kTileN>;
  using In = typename Element<kIn>::Type;
  constexpr int kStages = Layout::kStages, kSums = kTileN / 2;
  char* const unaligned = dynamic_shared<char>();
  char* const stages =
      unaligned + (Layout::kAlignment - shared_address(unaligned) % Layout::kAlignment) % Layout::kAlignment;
  SharedBarrier* const full = reinterpret_cast<SharedBarrier*>(stages + Layout::kBarriersAt);
  SharedBarrier* const empty = full + kStages;

  const int thread = static_cast<int>(threadIdx.x), warpgroup = thread / 128, lane = thread % 32;
  const int64_t steps = (g.K + Layout::kDepth - 1) / Layout::kDepth;
  if (thread == 0) {
    for (int s = 0; s < kStages; ++s) {
      barrier_init(&full[s], 1);
      barrier_init(&empty[s], kWgmmaConsumers * 4);
    }
    barrier_init_fence();
  }
  __syncthreads();
  StageRing<kStages> ring;

  if (warpgroup == kWgmmaConsumers) {
    registers_decrease<40>();
    if (thread % 128 != 0) return;
    for (int64_t index = blockIdx.x; index < plan.tiles; index += gridDim.x) {
      const TileIndex tile = tile_at(index, plan.tiles_m, plan.tiles_n);
      const int32_t row = static_cast<int32_t>(tile.m * Layout::kTileM), col = static_cast<int32_t>(tile.n * kTileN);
      int32_t batch_a[3], batch_b[3];
      batch_coordinates(g, g.A, tile.item, batch_a);
      batch_coordinates(g, g.B, tile.item, batch_b);
      for (int64_t step = 0; step < steps; ++step, ring.advance()) {
        barrier_wait(&empty[ring.slot], ring.parity ^ 1);
        char* const stage = stages + ring.slot * Layout::kStageBytes;
        const int32_t k = static_cast<int32_t>(step * Layout::kDepth);
        barrier_arrive_expect(&full[ring.slot], Layout::kStageBytes);
        load_stage<kAAlongK, Layout::kTileM>(stage, &map_a, &full[ring.slot], row, k, batch_a);
        load_stage<kBAlongK, kTileN>(stage + Layout::kBytesA, &map_b, &full[ring.slot], col, k, batch_b);
      }
    }
  } else {
    registers_increase<232>();
    // A warpgroup's 64 rows are 64 rows of 128 bytes, or one slab.
    const int first_a = warpgroup * 64 * Layout::kRowBytes;
    for (int64_t index = blockIdx.x; index < plan.tiles; index += gridDim.x) {
      float sums[kSums];
#pragma unroll
      for (int i = 0; i < kSums; ++i) sums[i] = 0;
      int previous = -1;
      for (int64_t step = 0; step < steps; ++step, ring.advance()) {
        const char* const stage = stages + ring.slot * Layout::kStageBytes;
        barrier_wait(&full[ring.slot], ring.parity);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < Layout::kDepth / 16; ++k)
          Wgmma<In, kTileN, kAAlongK, kBAlongK>::add(sums, stage_descriptor<kAAlongK>(stage + first_a, k),
                                                     stage_descriptor<kBAlongK>(stage + Layout::kBytesA, k));
        wgmma_commit();
        wgmma_wait<1>(sums);
        if (previous >= 0 && lane == 0) barrier_arrive(&empty[previous]);
        previous = ring.slot;
      }
      wgmma_wait<0>(sums);
      if (previous >= 0 && lane == 0) barrier_arrive(&empty[previous]);

      const TileIndex tile = tile_at(index, plan.tiles_m, plan.tiles_n);
      const Epilogue<kIn> epilogue(g, tile.item);
      const int64_t row = tile.m * Layout::kTileM + thread / 32 * 16 + lane / 4;
      const int64_t col = tile.n * kTileN + lane % 4 * 8;
#pragma unroll
      for (int quad = 0; quad < kTileN / 32; ++quad)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float v[8];
#pragma unroll
          for (int i = 0; i < 8; ++i) v[i] = sums[16 * quad + i / 2 * 4 + 2 * half + i % 2];
          transpose_quad(v);
          epilogue.store(v, row + 8 * half, col + 32 * quad);
        }
    }
  }
#endif
}

// The tensor map of an operand, seen as lines by K.
inline cudaError_t operand_map(const Gemm& g, MatrixView v, int64_t lines, bool along_k, int box_lines,
                               TensorMap* map) {
  TensorMapSpec spec;
  const int bytes = element_size(g.in);
  const int64_t inner = along_k ? g.K : lines, outer = along_k ? lines : g.K;
  const int64_t stride = along_k ? v.row_stride : v.col_stride;
  const int64_t pitch =
      (outer == 1 ? ceil_divide(inner, 8) * 8 : stride) * bytes;  // of one row: anything that is valid
  spec.data = v.data, spec.type = g.in;
  spec.size[0] = static_cast<uint64_t>(inner), spec.size[1] = static_cast<uint64_t>(outer);
  spec.stride[0] = static_cast<uint64_t>(pitch);
  for (int i = 0; i < 3; ++i) {
    const bool present = i < g.batch_dims && v.batch_stride[i] != 0 && g.batch_size[i] > 1;
    spec.size[2 + i] = present ? static_cast<uint64_t>(g.batch_size[i]) : 1;
    spec.stride[1 + i] = static_cast<uint64_t>(present ? v.batch_stride[i] * bytes : pitch);
  }
  spec.box[0] = 64, spec.box[1] = along_k ? static_cast<uint32_t>(box_lines) : 64;
  return make_tensor_map(spec, map);
}

template <DType kIn, int kTileN>
cudaError_t launch_wgmma_tile(const Gemm& g, const GemmPlan& plan, cudaStream_t stream) {
  using Layout = WgmmaLayout<kTileN>;
  TensorMap map_a = {}, map_b = {};
  if (g.K > 0) {
    MatrixView b = g.B;
    swap_matrix_dims(b);
    cudaError_t error = operand_map(g, g.A, g.M, plan.a_along_k, Layout::kTileM, &map_a);
    if (error == cudaSuccess) error = operand_map(g, b, g.N, plan.b_along_k, kTileN, &map_b);
    if (error != cudaSuccess) return error;
  }
  auto* kernel = plan.a_along_k
                     ? plan.b_along_k ? &gemm_wgmma<kIn, kTileN, true, true> : &gemm_wgmma<kIn, kTileN, true, false>
                 : plan.b_along_k ? &gemm_wgmma<kIn, kTileN, false, true>
                                  : &gemm_wgmma<kIn, kTileN, false, false>;
  return launch_kernel(kernel, dim3(static_cast<unsigned>(plan.blocks)), dim3(kWgmmaThreads), Layout::kSharedBytes,
                       stream, g, plan, map_a, map_b);
}

template <DType kIn>
cudaError_t launch_wgmma_type(const Gemm& g, const GemmPlan& plan, cudaStream_t stream) {
  return plan.size == TileSize::small ? launch_wgmma_tile<kIn, wgmma_tile_n(TileSize::small)>(g, plan, stream)
                                      : launch_wgmma_tile<kIn, wgmma_tile_n(TileSize::large)>(g, plan, stream);
}

}  // namespace myops
