// One tiled matrix product for every dtype and every stride, in the arithmetic of ordinary (SIMT) instructions.
//
// Not here: tensor cores, the choice of the tile (plan_tile.h), the switch over dtypes (float_tile.cu and its
// neighbours).
//
//            n ->                     A block owns a tile of D. Per step of K it copies m x k of A and k x n of B into
//      k     +-------------+          shared memory, widened to the accumulator's type and laid out along m and n:
//      |     |  B  k x n   |            a[stage][k][m]   b[stage][k][n]
//      v     +-------------+          A thread owns thread_m x thread_n results as groups of kVector neighbours, read
//   +-----+  +-------------+          from shared memory 16 bytes at a time; a warp (4 x 8 threads) meets no bank
// m |  A  |  |  D  m x n   |          conflict. Step s + 1 is loaded into registers while step s is multiplied, and
//   |mxk  |  |             |          stored to the other of two stages: one barrier per step.
//   +-----+  +-------------+
//
// Contract: rules of ../../matrix_view.h. Nothing outside the operands is read or written; edges are padded with zeros.
// Every result is one chain of multiply_add over ascending K from zero, then alpha * acc, then + beta * C, then the
// activation, then one rounding: bits depend on the row of A, the column of B and C alone. C is read by the thread that
// writes D.
#pragma once
#include "../element.cuh"
#include "epilogue.cuh"
#include "gemm.h"

namespace myops {

template <DType kIn, TileSize kSize>
struct TileLayout {
  static constexpr TileShape kShape = tile_shape(kIn, kSize);
  using Acc = typename Element<kIn>::Acc;
  static constexpr int kThreads = kShape.threads();
  static constexpr int kThreadsM = kShape.m / kShape.thread_m, kThreadsN = kShape.n / kShape.thread_n;
  static constexpr int kVector = 16 / sizeof(Acc);  // neighbours read at once
  static constexpr int kGroupsM = kShape.thread_m / kVector, kGroupsN = kShape.thread_n / kVector;
  static constexpr int kPad = kVector;  // keeps rows 16-byte aligned and spreads transposing stores over banks

  static_assert(kShape.thread_m % kVector == 0 && kShape.thread_n % kVector == 0, "a thread's tile is whole vectors");
  static_assert(kThreadsM % 4 == 0 && kThreadsN % 8 == 0, "a warp is 4 x 8 threads");

  struct alignas(16) Shared {
    Acc a[2][kShape.k][kShape.m + kPad];
    Acc b[2][kShape.k][kShape.n + kPad];
  };
  static_assert(sizeof(Shared) <= 48 * 1024, "static shared memory is at most 48 KB");
};

// A thread's share of the copies of one operand, seen as lines (rows of A, columns of B) by K.
template <class In, int kLines, int kDepth, int kThreads>
struct OperandLoader {
  static constexpr int kCount = kLines * kDepth / kThreads;
  static_assert(kLines * kDepth % kThreads == 0 && kThreads % kDepth == 0, "whole rows of threads along K");
  static_assert(kThreads % kLines == 0, "whole rows of threads along the lines");

  const In* next;   // this thread's first element in the next step of K
  int64_t stride;   // between its elements in one step
  int64_t advance;  // to the next step of K
  int line, depth;  // of its first element in the tile
  int line_step, depth_step;
  int lines;  // lines of the tile that exist
  In values[kCount];

  // base: the tile's first line, k = 0.
  __device__ __forceinline__ OperandLoader(const In* base, int64_t line_stride, int64_t k_stride, int64_t lines_left,
                                           bool along_k) {
    const int thread = static_cast<int>(threadIdx.x);
    line = along_k ? thread / kDepth : thread % kLines;
    depth = along_k ? thread % kDepth : thread / kLines;
    line_step = along_k ? kThreads / kDepth : 0;
    depth_step = along_k ? 0 : kThreads / kLines;
    lines = lines_left < kLines ? static_cast<int>(lines_left) : kLines;
    next = base + line * line_stride + depth * k_stride;
    stride = line_step * line_stride + depth_step * k_stride;
    advance = kDepth * k_stride;
  }

  // Reads one step, of which depth_left values of K exist.
  __device__ __forceinline__ void load(int64_t depth_left) {
    const int depths = depth_left < kDepth ? static_cast<int>(depth_left) : kDepth;
    const In* address = next;
#pragma unroll
    for (int i = 0; i < kCount; ++i, address += stride) {
      const bool exists = line + i * line_step < lines && depth + i * depth_step < depths;
      values[i] = exists ? *address : In{};
    }
    next += advance;
  }

  template <class Acc, int kPitch>
  __device__ __forceinline__ void store(Acc (&tile)[kDepth][kPitch], bool conj) const {
#pragma unroll
    for (int i = 0; i < kCount; ++i)
      shared_store(&tile[depth + i * depth_step][line + i * line_step], conjugate_if(conj, widen<Acc>(values[i])));
  }
};

template <DType kIn, TileSize kSize>
__global__ void __launch_bounds__(TileLayout<kIn, kSize>::kThreads)
    gemm_tile(const __grid_constant__ Gemm g, const __grid_constant__ GemmPlan plan) {
  using Layout = TileLayout<kIn, kSize>;
  using In = typename Element<kIn>::Type;
  using Acc = typename Element<kIn>::Acc;
  using Vector = Pack<Acc, Layout::kVector>;
  constexpr TileShape shape = Layout::kShape;
  constexpr int kVector = Layout::kVector;
  typename Layout::Shared& shared = shared_storage<typename Layout::Shared>();

  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  constexpr int kWarpsN = Layout::kThreadsN / 8;
  // The thread's first row and column; its groups lie kThreadsM * kVector rows and kThreadsN * kVector columns apart.
  const int thread_row = (warp / kWarpsN * 4 + lane / 8) * kVector;
  const int thread_col = (warp % kWarpsN * 8 + lane % 8) * kVector;

  for (int64_t index = blockIdx.x; index < plan.tiles; index += gridDim.x) {
    const TileIndex tile = tile_at(index, plan.tiles_m, plan.tiles_n);
    const int64_t row0 = tile.m * shape.m, col0 = tile.n * shape.n;
    Acc acc[shape.thread_m][shape.thread_n] = {};

    if (g.K > 0) {
      OperandLoader<In, shape.m, shape.k, Layout::kThreads> a(
          static_cast<const In*>(g.A.data) + batch_offset(g, g.A, tile.item) + row0 * g.A.row_stride, g.A.row_stride,
          g.A.col_stride, g.M - row0, plan.a_along_k);
      OperandLoader<In, shape.n, shape.k, Layout::kThreads> b(
          static_cast<const In*>(g.B.data) + batch_offset(g, g.B, tile.item) + col0 * g.B.col_stride, g.B.col_stride,
          g.B.row_stride, g.N - col0, plan.b_along_k);
      a.load(g.K);
      b.load(g.K);
      a.store(shared.a[0], g.A.conj);
      b.store(shared.b[0], g.B.conj);
      __syncthreads();

      int stage = 0;
      for (int64_t depth_left = g.K; depth_left > 0; depth_left -= shape.k, stage ^= 1) {
        const bool more = depth_left > shape.k;
        if (more) {
          a.load(depth_left - shape.k);
          b.load(depth_left - shape.k);
        }
#pragma unroll
        for (int k = 0; k < shape.k; ++k) {
          Vector a_rows[Layout::kGroupsM], b_cols[Layout::kGroupsN];
#pragma unroll
          for (int i = 0; i < Layout::kGroupsM; ++i)
            a_rows[i] = shared_load(
                reinterpret_cast<const Vector*>(&shared.a[stage][k][thread_row + i * Layout::kThreadsM * kVector]));
#pragma unroll
          for (int j = 0; j < Layout::kGroupsN; ++j)
            b_cols[j] = shared_load(
                reinterpret_cast<const Vector*>(&shared.b[stage][k][thread_col + j * Layout::kThreadsN * kVector]));
#pragma unroll
          for (int i = 0; i < shape.thread_m; ++i)
#pragma unroll
            for (int j = 0; j < shape.thread_n; ++j)
              multiply_add(acc[i][j], a_rows[i / kVector].v[i % kVector], b_cols[j / kVector].v[j % kVector]);
        }
        // The other stage was last read before the barrier of the previous step.
        if (more) {
          a.store(shared.a[stage ^ 1], g.A.conj);
          b.store(shared.b[stage ^ 1], g.B.conj);
        }
        __syncthreads();
      }
    }

    const Epilogue<kIn> epilogue(g, tile.item);
#pragma unroll
    for (int i = 0; i < shape.thread_m; ++i) {
      const int64_t row = row0 + thread_row + i / kVector * Layout::kThreadsM * kVector + i % kVector;
#pragma unroll
      for (int j = 0; j < Layout::kGroupsN; ++j) {
        Acc values[kVector];
#pragma unroll
        for (int v = 0; v < kVector; ++v) values[v] = acc[i][j * kVector + v];
        epilogue.store(values, row, col0 + thread_col + j * Layout::kThreadsN * kVector);
      }
    }
  }
}

template <DType kIn, TileSize kSize>
cudaError_t launch_tile_size(const Gemm& problem, const GemmPlan& plan, cudaStream_t stream) {
  return launch_kernel(&gemm_tile<kIn, kSize>, dim3(static_cast<unsigned>(plan.blocks)),
                       dim3(TileLayout<kIn, kSize>::kThreads), 0, stream, problem, plan);
}

template <DType kIn>
cudaError_t launch_tile(const Gemm& problem, const GemmPlan& plan, cudaStream_t stream) {
  return plan.size == TileSize::small ? launch_tile_size<kIn, TileSize::small>(problem, plan, stream)
                                      : launch_tile_size<kIn, TileSize::large>(problem, plan, stream);
}

}  // namespace myops
