// One tiled matrix product of integers of any width and any strides, on tensor cores for bytes (mma.sync, sm_80).
//
// An element is its bytes ("limbs") in base 256: a b = sum over i, j of A_i B_j 256^(i + j), modulo 256^limbs without
// the terms from i + j = limbs on: 1, 3, 10 and 36 products of bytes for 8, 16, 32 and 64 bits. As limbs of the two's
// complement are unsigned, so are the products. The sums of one i + j are a level; a thread has the sums of every level
// in registers and puts them together once, at the end. Sums wrap modulo 2^32, as the result does; those of int64 do
// not wrap within kFoldSteps steps, after which they move to 64 bits. int8 is one product of signed bytes.
//
//   Step s + 1 is loaded into registers while step s is multiplied, and stored, split into limbs, to the other of two
//   stages: one barrier per step. A thread loads 16 values of K of a line (row of A, column of B), neighbouring threads
//   neighbours along the operand's unit stride. A stage has `depth` bytes of K of each line of each limb; rows are 16
//   bytes longer, so that the eight rows which ldmatrix reads at once lie in different banks.
//
// Bound: the products of bytes. An element is read once a tile and multiplied by all limbs of the other operand, so
// that both memories have less to do than in a product of bytes. Nothing outside the operands is read or written.
#pragma once
#include "../element.cuh"
#include "../mma.cuh"
#include "epilogue.cuh"
#include "gemm.h"
#include "limbs.cuh"

namespace myops {

template <DType kIn, TileSize kSize>
struct LimbLayout {
  using In = typename Element<kIn>::Type;
  using Acc = typename Element<kIn>::Acc;
  static constexpr LimbShape kShape = limb_shape(kIn, kSize);
  static constexpr int kLimbs = sizeof(In), kThreads = kShape.threads(), kPitch = kShape.depth + 16;
  static constexpr int kWarpM = kShape.m / kShape.warps_m, kWarpN = kShape.n / kShape.warps_n;
  static constexpr int kBytesA = kLimbs * kShape.m * kPitch, kStageBytes = kBytesA + kLimbs * kShape.n * kPitch;
  static constexpr int kVector = 16 / sizeof(Acc);   // sums that are moved at once
  static constexpr int kResultPitch = kShape.n + 8;  // lines that a warp stores at once lie in different banks
  static constexpr int kSharedBytes = 2 * kStageBytes;
  // A level of int64 that may not wrap has at most 4 products of bytes for each value of K, less than 2^18; those of
  // more count in units of 2^32 or above.
  static constexpr int kFoldSteps = (1 << 14) / kShape.depth;

  static_assert(kShape.m * kResultPitch * static_cast<int>(sizeof(Acc)) <= kSharedBytes, "sums fit in the stages");
  static_assert(kWarpM % 16 == 0 && kWarpN % 16 == 0, "a warp takes whole fragments of A, and pairs of them of B");
};

// A thread's share of the copies of one operand: kUnits times 16 values of K of a line.
template <class In, int kLines, int kDepth, int kThreads>
struct LimbLoader {
  static constexpr int kChunks = kDepth / 16, kUnits = kLines * kChunks / kThreads, kPitch = kDepth + 16;
  static constexpr int kLimbs = sizeof(In), kHalves = kLimbs > 4 ? 2 : 1;  // 32 bits of an element
  static_assert(kLines * kChunks % kThreads == 0 && kThreads % kChunks == 0 && kThreads % kLines == 0,
                "every thread copies as much");

  const In* step;  // the tile's first line in the next step of K
  int64_t line_stride, k_stride;
  int line, chunk;  // of the first unit
  int line_step, chunk_step;
  int lines;  // lines of the tile that exist
  bool packed, whole = false;
  uint32_t raw[kUnits][16 * kHalves];  // `whole`: as in memory; else a word for each element, or for its half

  __device__ __forceinline__ LimbLoader(const In* base, int64_t line_stride_, int64_t k_stride_, int64_t lines_left,
                                        bool along_k, bool packed_)
      : step(base), line_stride(line_stride_), k_stride(k_stride_), packed(packed_) {
    const int thread = static_cast<int>(threadIdx.x);
    line = along_k ? thread / kChunks : thread % kLines;
    chunk = along_k ? thread % kChunks : thread / kLines;
    line_step = along_k ? kThreads / kChunks : 0;
    chunk_step = along_k ? 0 : kThreads / kLines;
    lines = lines_left < kLines ? static_cast<int>(lines_left) : kLines;
  }

  // Reads one step, of which depth_left values of K exist. What does not exist is 0, or, of lines that do not,
  // anything.
  __device__ __forceinline__ void load(int64_t depth_left) {
    whole = packed && depth_left >= kDepth;
    const int depth = depth_left < kDepth ? static_cast<int>(depth_left) : kDepth;
    const auto address_of = [&](int i) {
      const int line_i = line + i * line_step;
      return step + (line_i < lines ? line_i : 0) * line_stride + (chunk + i * chunk_step) * 16 * k_stride;
    };
    if (whole) {
#pragma unroll
      for (int i = 0; i < kUnits; ++i)
#pragma unroll
        for (int j = 0; j < kLimbs; ++j) {
          const auto pack = load_pack<Pack<uint32_t, 4>>(address_of(i) + j * (16 / kLimbs));
#pragma unroll
          for (int v = 0; v < 4; ++v) raw[i][4 * j + v] = pack.v[v];
        }
    } else {
#pragma unroll
      for (int i = 0; i < kUnits; ++i) {
        const In* address = address_of(i);
        const int left = depth - (chunk + i * chunk_step) * 16;
#pragma unroll
        for (int e = 0; e < 16; ++e, address += k_stride) {
          const In value = e < left ? *address : In{};
          raw[i][e * kHalves] = static_cast<uint32_t>(value);
          if constexpr (kHalves > 1)
            raw[i][e * kHalves + 1] = static_cast<uint32_t>(static_cast<uint64_t>(value) >> 32);
        }
      }
    }
    step += kDepth * k_stride;
  }

  // Stores what was read as rows of bytes, those of limb i from i * kLines on.
  __device__ __forceinline__ void store(char* stage) const {
#pragma unroll
    for (int i = 0; i < kUnits; ++i) {
      Pack<uint32_t, 4> limbs[kLimbs];
#pragma unroll
      for (int quad = 0; quad < 4; ++quad) {
        if (kLimbs == 1 && whole) {
          limbs[0].v[quad] = raw[i][quad];
        } else if (kLimbs == 2 && whole) {
          limbs[0].v[quad] = __byte_perm(raw[i][2 * quad], raw[i][2 * quad + 1], 0x6420);
          limbs[kLimbs - 1].v[quad] = __byte_perm(raw[i][2 * quad], raw[i][2 * quad + 1], 0x7531);
        } else {
#pragma unroll
          for (int half = 0; half < kHalves; ++half) {
            uint32_t w[4];
#pragma unroll
            for (int e = 0; e < 4; ++e) w[e] = raw[i][(4 * quad + e) * kHalves + half];
            transpose_bytes(w);
#pragma unroll
            for (int j = 0; j < 4 && 4 * half + j < kLimbs; ++j) limbs[4 * half + j].v[quad] = w[j];
          }
        }
      }
      char* const row = stage + (line + i * line_step) * kPitch + (chunk + i * chunk_step) * 16;
#pragma unroll
      for (int j = 0; j < kLimbs; ++j)
        shared_store(reinterpret_cast<Pack<uint32_t, 4>*>(row + j * kLines * kPitch), limbs[j]);
    }
  }
};

// The sums of all levels in one number.
template <class Acc, int kLimbs, int kM, int kN>
__device__ __forceinline__ Acc join_levels(const uint32_t (&level)[kLimbs][kM][kN][4], int i, int j, int v) {
  Acc sum = level[kLimbs - 1][i][j][v];
#pragma unroll
  for (int s = kLimbs - 2; s >= 0; --s) sum = (sum << 8) + level[s][i][j][v];
  return sum;
}

template <DType kIn, TileSize kSize>
__global__ void __launch_bounds__(LimbLayout<kIn, kSize>::kThreads)
    gemm_limb(const __grid_constant__ Gemm g, const __grid_constant__ GemmPlan plan) {
  using Layout = LimbLayout<kIn, kSize>;
  using In = typename Layout::In;
  using Acc = typename Layout::Acc;
  using Byte = std::conditional_t<kIn == DType::i8, int8_t, uint8_t>;
  constexpr LimbShape shape = Layout::kShape;
  constexpr int kLimbs = Layout::kLimbs, kTilesM = Layout::kWarpM / 16, kTilesN = Layout::kWarpN / 8;
  constexpr int kPitch = Layout::kPitch, kVector = Layout::kVector;
  char* const stages = dynamic_shared<char>();

  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int warp_m = warp / shape.warps_n * Layout::kWarpM, warp_n = warp % shape.warps_n * Layout::kWarpN;
  // What a lane gives ldmatrix (load_matrices): A in the order [k half][line half], B in [line half][k half].
  const int low = lane % 8, mid = lane / 8 % 2, high = lane / 16;
  const int a_lane = (warp_m + 8 * mid + low) * kPitch + 16 * high;
  const int b_lane = Layout::kBytesA + (warp_n + 8 * high + low) * kPitch + 16 * mid;
  const int steps = static_cast<int>((g.K + shape.depth - 1) / shape.depth);

  for (int64_t index = blockIdx.x; index < plan.tiles; index += gridDim.x) {
    const TileIndex tile = tile_at(index, plan.tiles_m, plan.tiles_n);
    const int64_t row0 = tile.m * shape.m, col0 = tile.n * shape.n;
    uint32_t level[kLimbs][kTilesM][kTilesN][4] = {};
    Acc total[kTilesM][kTilesN][4] = {};

    if (steps > 0) {
      LimbLoader<In, shape.m, shape.depth, Layout::kThreads> a(
          static_cast<const In*>(g.A.data) + batch_offset(g, g.A, tile.item) + row0 * g.A.row_stride, g.A.row_stride,
          g.A.col_stride, g.M - row0, plan.a_along_k, plan.a_packed);
      LimbLoader<In, shape.n, shape.depth, Layout::kThreads> b(
          static_cast<const In*>(g.B.data) + batch_offset(g, g.B, tile.item) + col0 * g.B.col_stride, g.B.col_stride,
          g.B.row_stride, g.N - col0, plan.b_along_k, plan.b_packed);
      // The first turn only loads: the code of a load and a store is long, and there is one of each.
      int64_t depth_left = g.K;
#pragma unroll 1
      for (int step = -1; step < steps; ++step, depth_left -= shape.depth) {
        const bool more = step + 1 < steps;
        if (more) {
          a.load(depth_left);
          b.load(depth_left);
        }
        if (step >= 0) {
          const char* const stage = stages + (step & 1) * Layout::kStageBytes;
#pragma unroll
          for (int k = 0; k < shape.depth; k += 32) {
            uint32_t a_fragments[kLimbs][kTilesM][4];
#pragma unroll
            for (int i = 0; i < kLimbs; ++i)
#pragma unroll
              for (int m = 0; m < kTilesM; ++m)
                load_matrices(a_fragments[i][m], stage + a_lane + (i * shape.m + 16 * m) * kPitch + k);
#pragma unroll
            for (int j = 0; j < kLimbs; ++j) {
              uint32_t b_fragments[kTilesN / 2][4];
#pragma unroll
              for (int n = 0; n < kTilesN / 2; ++n)
                load_matrices(b_fragments[n], stage + b_lane + (j * shape.n + 16 * n) * kPitch + k);
#pragma unroll
              for (int i = 0; i < kLimbs - j; ++i)
#pragma unroll
                for (int m = 0; m < kTilesM; ++m)
#pragma unroll
                  for (int n = 0; n < kTilesN; ++n) {
                    const uint32_t (&pair)[4] = b_fragments[n / 2];
                    const uint32_t b_fragment[2] = {pair[n % 2 * 2], pair[n % 2 * 2 + 1]};
                    WarpMma<Byte>::add(level[i + j][m][n], a_fragments[i][m], b_fragment);
                  }
            }
          }
          if constexpr (kLimbs == 8) {
            if (!more || step % Layout::kFoldSteps == Layout::kFoldSteps - 1) {
#pragma unroll
              for (int m = 0; m < kTilesM; ++m)
#pragma unroll
                for (int n = 0; n < kTilesN; ++n)
#pragma unroll
                  for (int v = 0; v < 4; ++v) {
                    total[m][n][v] += join_levels<Acc>(level, m, n, v);
#pragma unroll
                    for (int s = 0; s < kLimbs; ++s) level[s][m][n][v] = 0;
                  }
            }
          }
        }
        // The other stage was last read before the barrier of the previous step.
        if (more) {
          a.store(stages + (step + 1 & 1) * Layout::kStageBytes);
          b.store(stages + (step + 1 & 1) * Layout::kStageBytes + Layout::kBytesA);
        }
        __syncthreads();
      }
    }

    // Through shared memory, so that the stores to D are rows.
    Acc* const result = reinterpret_cast<Acc*>(stages);
#pragma unroll
    for (int m = 0; m < kTilesM; ++m)
#pragma unroll
      for (int n = 0; n < kTilesN; ++n)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int row = warp_m + 16 * m + 8 * half + lane / 4, col = warp_n + 8 * n + lane % 4 * 2;
          Pack<Acc, 2> pair;
#pragma unroll
          for (int v = 0; v < 2; ++v)
            pair.v[v] = kLimbs == 8 ? total[m][n][2 * half + v] : join_levels<Acc>(level, m, n, 2 * half + v);
          shared_store(reinterpret_cast<Pack<Acc, 2>*>(&result[row * Layout::kResultPitch + col]), pair);
        }
    __syncthreads();
    const Epilogue<kIn> epilogue(g, tile.item);
    constexpr int kGroups = shape.n / kVector;
#pragma unroll 1
    for (int i = thread; i < shape.m * kGroups; i += Layout::kThreads) {
      const int row = i / kGroups, col = i % kGroups * kVector;
      using Sums = Pack<Acc, kVector>;
      Sums sums = shared_load(reinterpret_cast<const Sums*>(&result[row * Layout::kResultPitch + col]));
      epilogue.store(sums.v, row0 + row, col0 + col);
    }
    __syncthreads();
  }
}

template <DType kIn, TileSize kSize>
cudaError_t launch_limb_size(const Gemm& g, const GemmPlan& plan, cudaStream_t stream) {
  using Layout = LimbLayout<kIn, kSize>;
  return launch_kernel(&gemm_limb<kIn, kSize>, dim3(static_cast<unsigned>(plan.blocks)), dim3(Layout::kThreads),
                       Layout::kSharedBytes, stream, g, plan);
}

template <DType kIn>
cudaError_t launch_limb_type(const Gemm& g, const GemmPlan& plan, cudaStream_t stream) {
  if constexpr (kIn != DType::i64)
    if (plan.size == TileSize::large) return launch_limb_size<kIn, TileSize::large>(g, plan, stream);
  return launch_limb_size<kIn, TileSize::small>(g, plan, stream);
}

}  // namespace myops
