// One tiled matrix product of integers on a Hopper: products of limbs (limb_tile.cuh says which) by wgmma of bytes, the
// stages, clusters and warps as in wgmma_tile.cuh.
//
// Contract: operands are bytes that run along K; base, pitch and batch strides are multiples of 16. Of wider elements
// they are planes of limbs (limb_pack.cu), which the tensor maps have as a batch dimension beside the product's own.
// Limbs are signed digits, so that numbers near zero have zero planes, and products of bytes are signed but for uint8.
//
//   The loader and the consumers walk levels from the highest down, then the pairs of limbs of a level, then K: one
//   product whose K is all pairs. Pairs with a plane that is zero in the lines of the tile (of all tiles of a cluster,
//   which share what they load) are left out. Between levels a consumer shifts its sums by a limb. Sums wrap modulo
//   2^32, as the result does; those of int64 move to 64 bits, with their sign, after a level, or after kFoldSteps
//   steps, within which they do not wrap.
//
// wgmma of bytes has no operand along its lines. Not here: tiles of D by TMA; the epilogue is epilogue.cuh alone,
// through the warp's own part of shared memory.
#pragma once
#include "../hopper.cuh"
#include "wgmma_tile.cuh"

namespace myops {

template <DType kIn, TileSize kSize>
struct LimbWgmmaLayout {
  using Acc = typename Element<kIn>::Acc;
  static constexpr WgmmaShape kShape = wgmma_shape(kSize);
  static constexpr int kLimbs = element_size(kIn), kTileM = kShape.m, kTileN = kShape.n, kCluster = kShape.cluster();
  static constexpr int kWarps = kWgmmaWarps;  // that multiply a stage
  static constexpr int kDepth = 128;          // of K, in a stage: rows of 128 bytes
  static constexpr int kBytesA = kTileM * kDepth, kStageBytes = kBytesA + kTileN * kDepth;
  // What a block loads for the cluster.
  static constexpr int kLinesA = kTileM / kShape.cluster_n, kLinesB = kTileN / kShape.cluster_m;
  static constexpr int kColumns = 256 / sizeof(Acc);  // of D, that a warp ends at once: 16 rows of 256 bytes
  static constexpr int kStagingBytes = kWgmmaWarps * 16 * 256;
  static constexpr int kAlignment = 1024;  // of the swizzle; the launch asks for so much more
  static constexpr int kBarrierBytes = 256;
  static constexpr int kRoom = (227 * 1024 - kAlignment - kBarrierBytes - kStagingBytes) / kStageBytes;
  static constexpr int kStages = kRoom < 8 ? kRoom : 8;
  static constexpr int kStagingAt = kStages * kStageBytes, kBarriersAt = kStagingAt + kStagingBytes;
  static constexpr int kSharedBytes = kBarriersAt + kBarrierBytes + kAlignment;
  static constexpr int kFoldSteps = 512;  // 512 * 128 * 128^2 < 2^31

  static_assert(2 * kStages * sizeof(SharedBarrier) <= kBarrierBytes, "room for the barriers");
  static_assert(kStages >= 4, "fewer stages do not cover the latency of memory");
};

// The limbs that are not zero in all of kLines lines from `line` on, a bit each, as limb_pack.cu found them. A warp
// calls together.
template <int kLimbs, int kLines>
__device__ __forceinline__ uint32_t limbs_in_use(const Gemm& g, const MatrixView& v, int64_t lines, int64_t pitch,
                                                 int64_t item, int line) {
  static_assert(kLines % kLimbTileLines == 0 && kLimbPackWarps == 8, "whole tiles, whose bytes are two words");
  const int tiles_k = static_cast<int>(ceil_divide(g.K, kLimbTileK)), left = static_cast<int>(lines) - line;
  const int tiles = (left < kLines ? left + kLimbTileLines - 1 : kLines) / kLimbTileLines * tiles_k;
  const char* const found = static_cast<const char*>(v.data) + batch_offset(g, v, item) + kLimbs * pitch * lines +
                            line / kLimbTileLines * int64_t(tiles_k) * kLimbPackWarps;
  uint32_t used = 0;
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x) % 32; i < tiles; i += 32) {
    const auto tile = load_pack<Pack<uint32_t, 2>>(found + i * kLimbPackWarps);
    used |= tile.v[0] | tile.v[1];
  }
  used |= used >> 16;
  return __reduce_or_sync(~0u, (used | used >> 8) & 0xff);
}

// The pairs of limbs that a tile multiplies.
template <DType kIn, TileSize kSize>
struct LimbPairs {
  using Layout = LimbWgmmaLayout<kIn, kSize>;
  uint32_t a = 1, b = 1u << 31;  // a bit for each limb, of B from the highest down

  __device__ __forceinline__ LimbPairs(const Gemm& g, const WgmmaTile<kSize>& tile, int rank) {
    constexpr int kLimbs = Layout::kLimbs;
    constexpr WgmmaShape shape = Layout::kShape;
    if constexpr (kLimbs > 1) {
      a = limbs_in_use<kLimbs, shape.cluster_m * Layout::kTileM>(g, g.A, g.M, g.A.row_stride, tile.item,
                                                                 tile.row - rank % shape.cluster_m * Layout::kTileM);
      b = __brev(limbs_in_use<kLimbs, shape.cluster_n * Layout::kTileN>(
          g, g.B, g.N, g.B.col_stride, tile.item, tile.col - rank % shape.cluster_n * Layout::kTileN));
    }
  }
  // Bit i: limb i of A and limb level - i of B.
  __device__ __forceinline__ uint32_t at(int level) const { return a & b >> (31 - level); }
};

// The loader, a warp: the stages of all tiles of this block, one after the other.
template <DType kIn, TileSize kSize>
__device__ __forceinline__ void load_limb_tiles(const Gemm& g, const GemmPlan& plan, const TensorMap* map_a,
                                                const TensorMap* map_b, char* stages, SharedBarrier* full,
                                                SharedBarrier* empty, int rank, int steps) {
  using Layout = LimbWgmmaLayout<kIn, kSize>;
  constexpr int kCluster = Layout::kCluster, kLimbs = Layout::kLimbs;
  constexpr WgmmaShape shape = Layout::kShape;
  const int a = rank % shape.cluster_n * Layout::kLinesA, b = rank % shape.cluster_m * Layout::kLinesB;
  StageRing<Layout::kStages> ring;
  for (int64_t index = blockIdx.x / kCluster; index < plan.tiles; index += gridDim.x / kCluster) {
    const WgmmaTile<kSize> tile(plan, index, rank);
    const LimbPairs<kIn, kSize> pairs(g, tile, rank);
    if (threadIdx.x % 32 != 0) continue;
    int32_t batch_a[3], batch_b[3];
    batch_coordinates(g, g.A, tile.item, batch_a);
    batch_coordinates(g, g.B, tile.item, batch_b);
#pragma unroll 1
    for (int level = kLimbs - 1; level >= 0; --level) {
#pragma unroll 1
      for (uint32_t left = pairs.at(level); left != 0; left &= left - 1) {
        if constexpr (kLimbs > 1) {
          const int i = __ffs(static_cast<int>(left)) - 1;
#pragma unroll
          for (int d = 0; d < 3; ++d) {  // chosen by value: an index that is not a constant would take local memory
            batch_a[d] = d == g.batch_dims ? i : batch_a[d];
            batch_b[d] = d == g.batch_dims ? level - i : batch_b[d];
          }
        }
#pragma unroll 1
        for (int step = 0; step < steps; ++step, ring.advance()) {
          barrier_wait(&empty[ring.slot], ring.parity ^ 1);
          char* const stage = stages + ring.slot * Layout::kStageBytes;
          SharedBarrier* const arrived = &full[ring.slot];
          barrier_arrive_expect(arrived, Layout::kStageBytes);
          const int k = step * Layout::kDepth;
          load_stage<true, Layout::kLinesA, (shape.cluster_n > 1)>(stage + a * Layout::kDepth, map_a, arrived,
                                                                   tile.row + a, k, batch_a);
          load_stage<true, Layout::kLinesB, (shape.cluster_m > 1)>(stage + Layout::kBytesA + b * Layout::kDepth, map_b,
                                                                   arrived, tile.col + b, k, batch_b);
        }
      }
    }
  }
  if (threadIdx.x % 32 == 0) await_releases<Layout>(empty, ring);
}

// Ends 16 rows of a warp, kColumns columns at a time, through its own part of the staging area.
template <DType kIn, int kColumns, class Acc, int kCount>
__device__ __forceinline__ void finish_limbs(const Gemm& g, const Acc (&sums)[kCount], char* staging, int64_t item,
                                             int64_t row0, int64_t col0) {
  constexpr int kGroup = 32 / sizeof(Acc), kGroups = kColumns / kGroup, kVector = 16 / sizeof(Acc);
  using Vector = Pack<Acc, kVector>;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  Acc* const part = reinterpret_cast<Acc*>(staging);
  // Groups of 32 bytes are exchanged, so that the rows of a fragment lie in different banks.
  const auto at = [&](int row, int group) { return part + row * kColumns + (group ^ row % 4) * kGroup; };
  const Epilogue<kIn> epilogue(g, item);
#pragma unroll 1
  for (int chunk = 0; chunk < 2 * kCount / kColumns; ++chunk) {
#pragma unroll
    for (int c = 0; c < 2 * kCount / kColumns; ++c) {
      if (c != chunk) continue;
#pragma unroll
      for (int j = 0; j < kColumns / 8; ++j)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int first = c * kColumns / 2 + 4 * j + 2 * i, column = 8 * j + lane % 4 * 2;
          const Pack<Acc, 2> two = {{sums[first], sums[first + 1]}};
          shared_store(reinterpret_cast<Pack<Acc, 2>*>(at(lane / 4 + 8 * i, column / kGroup) + column % kGroup), two);
        }
    }
    __syncwarp();
#pragma unroll 1
    for (int i = lane; i < 16 * kGroups; i += 32) {
      const int row = i / kGroups, group = i % kGroups;
      Acc v[kGroup];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const Vector vector = shared_load(reinterpret_cast<const Vector*>(at(row, group) + half * kVector));
#pragma unroll
        for (int e = 0; e < kVector; ++e) v[half * kVector + e] = vector.v[e];
      }
      epilogue.store(v, row0 + row, col0 + chunk * kColumns + group * kGroup);
    }
    __syncwarp();
  }
}

template <DType kIn, TileSize kSize>
__global__ void __launch_bounds__(kWgmmaThreads, 1)
    gemm_limb_wgmma(const __grid_constant__ Gemm g, const __grid_constant__ GemmPlan plan,
                    const __grid_constant__ TensorMap map_a, const __grid_constant__ TensorMap map_b) {
#if MYOPS_HOPPER_CODE
  using Layout = LimbWgmmaLayout<kIn, kSize>;
  using Acc = typename Layout::Acc;
  using Byte = std::conditional_t<kIn == DType::u8, uint8_t, int8_t>;
  constexpr int kStages = Layout::kStages, kTileN = Layout::kTileN, kCluster = Layout::kCluster;
  constexpr int kLimbs = Layout::kLimbs, kSums = kTileN / 2;
  constexpr bool kWide = sizeof(Acc) > 4;
  const WgmmaPipeline<Layout> pipeline(&map_a, &map_b, [](SharedBarrier*) {}, g.K > 0);
  char* const stages = pipeline.stages;
  SharedBarrier *const full = pipeline.full, *const empty = pipeline.empty;
  const int thread = static_cast<int>(threadIdx.x), warpgroup = warpgroup_index();
  const int rank = pipeline.rank, steps = static_cast<int>((g.K + Layout::kDepth - 1) / Layout::kDepth);

  if (warpgroup == kWgmmaConsumers) {
    registers_decrease<56>();
    if (thread % 128 < 32) load_limb_tiles<kIn, kSize>(g, plan, &map_a, &map_b, stages, full, empty, rank, steps);
  } else {
    registers_increase<224>();
    StageRing<kStages> ring;
    const int first_a = warpgroup * 64 * Layout::kDepth;
    for (int64_t index = blockIdx.x / kCluster; index < plan.tiles; index += gridDim.x / kCluster) {
      const LimbPairs<kIn, kSize> pairs(g, WgmmaTile<kSize>(plan, index, rank), rank);
      uint32_t sums[kSums] = {};
      Acc total[kWide ? kSums : 1] = {};
#pragma unroll 1
      for (int level = kLimbs - 1; level >= 0; --level) {
        if (level < kLimbs - 1) {
#pragma unroll
          for (int i = 0; i < kSums; ++i) {
            if constexpr (kWide)
              total[i] <<= 8;
            else
              sums[i] <<= 8;
          }
        }
        int left = __popc(pairs.at(level)) * steps;
#pragma unroll 1
        while (left > 0) {
          const int count = kWide && left > Layout::kFoldSteps ? Layout::kFoldSteps : left;
          int previous = -1;
#pragma unroll 1
          for (int step = 0; step < count; ++step, ring.advance()) {
            const char* const stage = stages + ring.slot * Layout::kStageBytes;
            barrier_wait(&full[ring.slot], ring.parity);
            wgmma_fence();
#pragma unroll
            for (int k = 0; k < Layout::kDepth / 32; ++k)
              Wgmma<Byte, kTileN, true, true>::add(sums, stage_descriptor<true>(stage + first_a, k),
                                                   stage_descriptor<true>(stage + Layout::kBytesA, k));
            wgmma_commit();
            wgmma_wait<1>(sums);
            if (previous >= 0) pipeline.release(previous);
            previous = ring.slot;
          }
          wgmma_wait<0>(sums);
          pipeline.release(previous);
          left -= count;
          if constexpr (kWide) {
#pragma unroll
            for (int i = 0; i < kSums; ++i) {
              total[i] += static_cast<Acc>(static_cast<int32_t>(sums[i]));
              sums[i] = 0;
            }
          }
        }
      }

      const WgmmaTile<kSize> tile(plan, index, rank);  // not kept beside the sums
      char* const mine = stages + Layout::kStagingAt + thread / 32 * 16 * 256;
      const int64_t row = tile.row + thread / 32 * 16;
      if constexpr (kWide)
        finish_limbs<kIn, Layout::kColumns>(g, total, mine, tile.item, row, tile.col);
      else
        finish_limbs<kIn, Layout::kColumns>(g, sums, mine, tile.item, row, tile.col);
    }
  }
#endif
}

// g has operands of bytes; planes: bytes between their limbs.
template <DType kIn, TileSize kSize>
cudaError_t launch_limb_wgmma_size(const Gemm& g, const GemmPlan& plan, int64_t plane_a, int64_t plane_b,
                                   cudaStream_t stream) {
  using Layout = LimbWgmmaLayout<kIn, kSize>;
  TensorMap map_a = {}, map_b = {};
  cudaError_t error = cudaSuccess;
  if (g.K > 0) {
    error = matrix_map(g, g.A, DType::u8, g.K, g.M, g.A.row_stride, Layout::kLinesA, &map_a, Layout::kLimbs, plane_a);
    if (error == cudaSuccess)
      error = matrix_map(g, g.B, DType::u8, g.K, g.N, g.B.col_stride, Layout::kLinesB, &map_b, Layout::kLimbs, plane_b);
  }
  if (error != cudaSuccess) return error;
  return launch_cluster(Layout::kCluster, &gemm_limb_wgmma<kIn, kSize>, dim3(static_cast<unsigned>(plan.blocks)),
                        dim3(kWgmmaThreads), Layout::kSharedBytes, stream, g, plan, map_a, map_b);
}

template <DType kIn>
cudaError_t launch_limb_wgmma_type(const Gemm& g, const GemmPlan& plan, int64_t plane_a, int64_t plane_b,
                                   cudaStream_t stream) {
  switch (plan.size) {
    case TileSize::narrow: return launch_limb_wgmma_size<kIn, TileSize::narrow>(g, plan, plane_a, plane_b, stream);
    case TileSize::small: return launch_limb_wgmma_size<kIn, TileSize::small>(g, plan, plane_a, plane_b, stream);
    default: break;
  }
  if constexpr (kIn != DType::i64)
    return launch_limb_wgmma_size<kIn, TileSize::large>(g, plan, plane_a, plane_b, stream);
  return cudaErrorInvalidValue;
}

}  // namespace myops
