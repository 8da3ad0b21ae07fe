// One tiled matrix product for every dtype and every stride, in the arithmetic of ordinary (SIMT) instructions.
//
// Not here: tensor cores, the choice of the tile (plan_tile.h), the switch over dtypes (float_tile.cu and its
// neighbours).
//
//            n ->                     A block owns a tile of D. Per step of K it copies m x k of A and k x n of B into
//      k     +-------------+          one of a ring of stages in shared memory, laid out along m and n:
//      |     |  B  k x n   |            a[k][m]   b[k][n]
//      v     +-------------+          by cp.async, which transposes what runs along K on its way, needs no registers,
//   +-----+  +-------------+          and fills the edges with zeros; elements of less than 4 bytes go through
// m |  A  |  |  D  m x n   |          registers, widened. One barrier per step. A thread owns thread_m x thread_n
//   |mxk  |  |             |          results as groups of neighbours, read from shared memory 16 bytes at a time and
//   +-----+  +-------------+          one k ahead, over the end of a step too.
//
// The bound is the rate of multiply-adds; short of it are the loads from shared memory (a quarter of the instructions
// at 4 x 4 results of a thread, a sixteenth at 8 x 8) and, for small tiles, the latency of memory, which the ring
// covers.
//
// Contract: rules of ../../matrix_view.h. Nothing outside the operands is read or written; edges are padded with zeros.
// Every result is one chain of multiply_add over ascending K from zero, then alpha * acc, then + beta * C, then the
// activation, then one rounding: bits depend on the row of A, the column of B and C alone. C is read by the thread that
// writes D. conj(A) @ B is summed as conj(A @ conj(B)).
#pragma once
#include "../async_copy.cuh"
#include "../element.cuh"
#include "epilogue.cuh"
#include "gemm.h"

namespace myops {

template <DType kIn, TileSize kSize>
struct TileLayout {
  using In = typename Element<kIn>::Type;
  using Acc = typename Element<kIn>::Acc;
  static constexpr TileShape kShape = tile_shape(kIn, kSize);
  static constexpr bool kAsync = sizeof(In) >= 4;  // what cp.async can copy
  static constexpr int kThreads = kShape.threads();
  static constexpr int kThreadsM = kShape.m / kShape.thread_m, kThreadsN = kShape.n / kShape.thread_n;
  static constexpr int kVector = 16 / sizeof(Acc);                                        // neighbours in 16 bytes
  static constexpr int kVectorM = kVector < kShape.thread_m ? kVector : kShape.thread_m;  // read at once
  static constexpr int kVectorN = kVector < kShape.thread_n ? kVector : kShape.thread_n;
  static constexpr int kGroupsM = kShape.thread_m / kVectorM, kGroupsN = kShape.thread_n / kVectorN;
  // Rows stay aligned to 16 bytes, and the 8 values of K by 4 lines that a warp transposes lie in different banks.
  static constexpr int kPitchA = kShape.m + kVector, kPitchB = kShape.n + kVector;
  static constexpr int kOperandA = kShape.k * kPitchA, kStage = kOperandA + kShape.k * kPitchB;
  static constexpr int kAhead = kAsync ? kShape.stages - 1 : 1;  // steps that are copied before they are needed
  // At the end one group of rows of every thread at a time takes the place of the stages.
  static constexpr int kRoundRows = kThreadsM * kVectorM;
  static constexpr int kRuns = kShape.n / kVector;  // of 16 bytes in a row
  static constexpr int kElements =
      kShape.stages * kStage > kRoundRows* kPitchB ? kShape.stages * kStage : kRoundRows * kPitchB;
  static constexpr int kSharedBytes = kElements * static_cast<int>(sizeof(Acc)) + static_cast<int>(sizeof(TileIndex));

  static_assert(kThreadsM % 4 == 0 && kThreadsN % 8 == 0, "a warp is 4 x 8 threads");
  static_assert(kShape.k % kTileUnit == 0 && kTileUnit == 8, "a warp copies 8 values of K, which padding ends with");
  static_assert(kThreads % kRuns == 0, "a thread stores one column of runs");
};

// How a thread finds its copies of one operand: the distance between them, and from step to step, in elements.
struct TileCopies {
  int64_t stride, advance;
  bool along_k, packed;
};

// A thread's share of the copies of one operand, seen as lines (rows of A, columns of B) by K. A warp copies 8 values
// of K of 4 lines where the operand runs along K, else neighbouring lines, 16 bytes of them where it is packed.
template <class Layout, int kLines, int kPitch>
struct OperandLoader {
  using In = typename Layout::In;
  using Acc = typename Layout::Acc;
  static constexpr int kThreads = Layout::kThreads, kDepth = Layout::kShape.k;
  static constexpr int kChunk = sizeof(In) < 4 ? 1 : 16 / sizeof(In);  // elements of a packed copy
  static constexpr int kCount = kLines * kDepth / kThreads, kPackedCount = kCount / kChunk;
  static constexpr int kUnits = kDepth / 8, kChunks = kLines / kChunk;
  static constexpr int kLineStep = kThreads / kDepth;  // between a thread's copies
  static constexpr int kDepthStep = kThreads / kLines, kPackedStep = kThreads / kChunks;
  static constexpr int kBytes = static_cast<int>(sizeof(In));
  static_assert(kCount * kThreads == kLines * kDepth && kPackedCount * kChunk == kCount, "whole copies");
  static_assert(kThreads / 32 % kUnits == 0 && kThreads % kLines == 0, "copies one step apart");

  static TileCopies copies(int64_t line_stride, int64_t k_stride, bool along_k, bool packed) {
    packed = packed && kChunk > 1;
    return {along_k ? kLineStep * line_stride : (packed ? kPackedStep : kDepthStep) * k_stride, kDepth * k_stride,
            along_k, packed};
  }

  const TileCopies& to;
  const In* next;  // this thread's first element in the next step of K
  int at;          // the same in a stage
  int exist;       // of a step: the bytes of each copy where they are packed, else the number of copies

  __device__ __forceinline__ static int first_depth(const TileCopies& to) {
    const unsigned thread = threadIdx.x;
    return static_cast<int>(to.along_k  ? thread / 32 % kUnits * 8 + thread % 8
                            : to.packed ? thread / kChunks
                                        : thread / kLines);
  }

  // data: the tile's first line, k = 0.
  __device__ __forceinline__ OperandLoader(const TileCopies& to, const In* data, int64_t line_stride, int64_t k_stride,
                                           int64_t lines_left)
      : to(to) {
    const unsigned thread = threadIdx.x;
    const int depth = first_depth(to), line = static_cast<int>(to.along_k  ? thread / 32 / kUnits * 4 + thread % 32 / 8
                                                               : to.packed ? thread % kChunks * kChunk
                                                                           : thread % kLines);
    const int left = (lines_left < kLines ? static_cast<int>(lines_left) : kLines) - line;
    at = depth * kPitch + line;
    next = data + line * line_stride + depth * k_stride;
    exist = left <= 0       ? 0
            : to.along_k    ? (left + kLineStep - 1) / kLineStep
            : !to.packed    ? kCount
            : left < kChunk ? left * kBytes
                            : 16;
  }

  // The last step, of which `depths` values of K exist.
  __device__ __forceinline__ void end_at(int depths) {
    const int left = depths - first_depth(to);
    if (left <= 0)
      exist = 0;
    else if (!to.along_k && !to.packed && exist > 0)
      exist = (left + kDepthStep - 1) / kDepthStep;
  }

  // depths: kDepth, or fewer in the last step.
  __device__ __forceinline__ void copy(Acc* stage, int depths) {
    stage += at;
    if (to.packed) {
      const int depth = first_depth(to);
      each<kPackedCount>([&](int i, const In* from) {
        async_copy<16>(stage + i * kPackedStep * kPitch, from, depth + i * kPackedStep < depths ? exist : 0);
      });
    } else if (to.along_k) {
      each<kCount>(
          [&](int i, const In* from) { async_copy<kBytes>(stage + i * kLineStep, from, i < exist ? kBytes : 0); });
    } else {
      each<kCount>([&](int i, const In* from) {
        async_copy<kBytes>(stage + i * kDepthStep * kPitch, from, i < exist ? kBytes : 0);
      });
    }
    next += to.advance;
  }

  __device__ __forceinline__ void load(In (&values)[kCount]) {
    each<kCount>([&](int i, const In* from) { values[i] = i < exist ? *from : In{}; });
    next += to.advance;
  }

  __device__ __forceinline__ void store(Acc* stage, const In (&values)[kCount]) const {
    const int step = to.along_k ? kLineStep : kDepthStep * kPitch;
    stage += at;
#pragma unroll
    for (int i = 0; i < kCount; ++i, stage += step) shared_store(stage, widen<Acc>(values[i]));
  }

 private:
  template <int kTimes, class Body>
  __device__ __forceinline__ void each(const Body& body) const {
    const In* from = next;
#pragma unroll
    for (int i = 0; i < kTimes; ++i, from += to.stride) body(i, from);
  }
};

// The rows of one round, from shared memory to D.
template <DType kIn, class Layout>
__device__ __forceinline__ void store_round(const typename Layout::Acc* results, const Gemm& g, bool plain,
                                            int64_t item, int64_t row0, int64_t col0) {
  using In = typename Layout::In;
  using Acc = typename Layout::Acc;
  constexpr int kVector = Layout::kVector, kStep = Layout::kThreads / Layout::kRuns;  // rows
  constexpr int kCount = Layout::kRoundRows / kStep, kBatch = kCount < 4 ? kCount : 4;
  using Sums = Pack<Acc, kVector>;
  using Row = Pack<In, kVector>;
  const int first = static_cast<int>(threadIdx.x / Layout::kRuns);
  const int at = static_cast<int>(threadIdx.x % Layout::kRuns) * kVector;
  results += first * Layout::kPitchB + at;
  const int64_t row = row0 + first, col = col0 + at;
  if (plain) {
    if (col >= g.N) return;
    const auto alpha = Scalar<Acc>::of(g.alpha), beta = Scalar<Acc>::of(g.beta);
    const bool has_c = g.C.data != nullptr;
    const In* c = static_cast<const In*>(g.C.data);
    if (has_c) c += batch_offset(g, g.C, item) + row * g.C.row_stride + col;
    In* d = static_cast<In*>(g.D.data) + batch_offset(g, g.D, item) + row * g.D.row_stride + col;
    const int left = g.M - row < Layout::kRoundRows ? static_cast<int>(g.M - row) : Layout::kRoundRows;
#pragma unroll 1
    for (int i = 0; i < kCount; i += kBatch, results += kBatch * kStep * Layout::kPitchB) {
      Row c_rows[kBatch] = {};
      if (has_c)
#pragma unroll
        for (int j = 0; j < kBatch; ++j)
          if ((i + j) * kStep < left) c_rows[j] = load_pack<Row>(c + (i + j) * kStep * g.C.row_stride);
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        if ((i + j) * kStep >= left) continue;
        Sums sums = shared_load(reinterpret_cast<const Sums*>(results + j * kStep * Layout::kPitchB));
        Row d_row;
#pragma unroll
        for (int v = 0; v < kVector; ++v) {
          Acc sum = scale(alpha, sums.v[v]);
          if (has_c) sum = scale_add(beta, widen<Acc>(c_rows[j].v[v]), sum);
          d_row.v[v] = narrow<In>(sum);
        }
        store_pack(d + (i + j) * kStep * g.D.row_stride, d_row);
      }
    }
  } else {
    const Epilogue<kIn> epilogue(g, item);
#pragma unroll 1
    for (int i = 0; i < kCount; ++i) {
      Sums sums = shared_load(reinterpret_cast<const Sums*>(results + i * kStep * Layout::kPitchB));
      epilogue.store(sums.v, row + i * kStep, col);
    }
  }
}

// kConj: B's elements count as conjugates of what is stored.
template <DType kIn, TileSize kSize, bool kConj>
__global__ void __launch_bounds__(TileLayout<kIn, kSize>::kThreads, TileLayout<kIn, kSize>::kShape.blocks)
    gemm_tile(const __grid_constant__ Gemm g, const __grid_constant__ GemmPlan plan,
              const __grid_constant__ TileCopies a_copies, const __grid_constant__ TileCopies b_copies,
              const int64_t first_tile) {
  using Layout = TileLayout<kIn, kSize>;
  using In = typename Layout::In;
  using Acc = typename Layout::Acc;
  using VectorM = Pack<Acc, Layout::kVectorM>;
  using VectorN = Pack<Acc, Layout::kVectorN>;
  using LoaderA = OperandLoader<Layout, Layout::kShape.m, Layout::kPitchA>;
  using LoaderB = OperandLoader<Layout, Layout::kShape.n, Layout::kPitchB>;
  constexpr TileShape shape = Layout::kShape;
  constexpr int kVectorM = Layout::kVectorM, kVectorN = Layout::kVectorN;
  constexpr int kAcross = Layout::kThreadsN * kVectorN;  // columns between a thread's groups
  Acc* const shared = dynamic_shared<Acc>();
  TileIndex* const kept = reinterpret_cast<TileIndex*>(shared + Layout::kElements);

  // The lanes of a warp, 4 x 8, such that neighbours read the same of B: a load of 16 bytes takes two cycles then.
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  constexpr int kWarpsN = Layout::kThreadsN / 8;
  const int thread_row = (warp / kWarpsN * 4 + lane / 16 * 2 + lane % 2) * kVectorM;
  const int thread_col = (warp % kWarpsN * 8 + lane / 2 % 8) * kVectorN;

  const int64_t index = first_tile + blockIdx.x;
  const TileIndex tile = plan.tiles <= 0x7fffffff
                             ? tile_at(static_cast<uint32_t>(index), static_cast<uint32_t>(plan.tiles_m),
                                       static_cast<uint32_t>(plan.tiles_n))
                             : tile_at(index, plan.tiles_m, plan.tiles_n);
  if (threadIdx.x == 0) shared_store(kept, tile);  // until the end, where registers are free again
  Acc acc[shape.thread_m][shape.thread_n] = {};

  if (g.K > 0) {
    const int64_t row0 = tile.m * shape.m, col0 = tile.n * shape.n;
    LoaderA a(a_copies, static_cast<const In*>(g.A.data) + batch_offset(g, g.A, tile.item) + row0 * g.A.row_stride,
              g.A.row_stride, g.A.col_stride, g.M - row0);
    LoaderB b(b_copies, static_cast<const In*>(g.B.data) + batch_offset(g, g.B, tile.item) + col0 * g.B.col_stride,
              g.B.col_stride, g.B.row_stride, g.N - col0);
    VectorM a_rows[2][Layout::kGroupsM];  // of this k and the next
    VectorN b_cols[2][Layout::kGroupsN];
    const Acc *unit_a = nullptr, *unit_b = nullptr;  // the first values of kTileUnit
    const auto read = [&](int to, int k) {
      const Acc* rows = unit_a + k * Layout::kPitchA;
      const Acc* cols = unit_b + k * Layout::kPitchB;
#pragma unroll
      for (int i = 0; i < Layout::kGroupsM; ++i)
        a_rows[to][i] = shared_load(reinterpret_cast<const VectorM*>(rows + i * Layout::kRoundRows));
#pragma unroll
      for (int j = 0; j < Layout::kGroupsN; ++j)
        b_cols[to][j] = shared_load(reinterpret_cast<const VectorN*>(cols + j * kAcross));
    };
    const auto multiply = [&](int from) {
#pragma unroll
      for (int i = 0; i < shape.thread_m; ++i)
#pragma unroll
        for (int j = 0; j < shape.thread_n; ++j) {
          const Acc x = a_rows[from][i / kVectorM].v[i % kVectorM], y = b_cols[from][j / kVectorN].v[j % kVectorN];
          if constexpr (kConj)
            multiply_add_conj(acc[i][j], x, y);
          else
            multiply_add(acc[i][j], x, y);
        }
    };

    // Step s copies step s + kAhead and multiplies its own; what it reads last are the first values of the next. Before
    // step 0 come kAhead that only copy.
    constexpr int kRing = shape.stages * Layout::kStage;
    const int steps = static_cast<int>((g.K + shape.k - 1) / shape.k);
    const int last_depths = static_cast<int>(g.K - int64_t(steps - 1) * shape.k);
    const Acc* stage = shared;
    int writes = 0;
#pragma unroll 1
    for (int step = -Layout::kAhead; step < steps; ++step) {
      In a_values[LoaderA::kCount], b_values[LoaderB::kCount];
      if (step + Layout::kAhead < steps) {
        int depths = shape.k;
        if (step + Layout::kAhead + 1 == steps) {
          depths = last_depths;
          a.end_at(depths), b.end_at(depths);
        }
        if constexpr (Layout::kAsync) {
          a.copy(shared + writes, depths);
          b.copy(shared + writes + Layout::kOperandA, depths);
        } else {
          a.load(a_values);
          b.load(b_values);
        }
      }
      if constexpr (Layout::kAsync) async_commit();  // an empty group keeps the count that async_wait goes by
      // The next step arrives for all, and all have read this one, which the copies after that overwrite.
      const auto arrive = [&] {
        if constexpr (Layout::kAsync) {
          async_wait<shape.stages - 2>();
        } else {
          a.store(shared + writes, a_values);
          b.store(shared + writes + Layout::kOperandA, b_values);
        }
        __syncthreads();
        unit_a = stage + thread_row, unit_b = stage + Layout::kOperandA + thread_col;
        read(0, 0);
      };
      if (step < 0) {
        if (step == -1) arrive();
      } else {
        int units = (step + 1 < steps ? shape.k : last_depths + kTileUnit - 1) / kTileUnit;
#pragma unroll 1
        do {
#pragma unroll
          for (int k = 0; k + 1 < kTileUnit; ++k) {
            read((k + 1) % 2, k + 1);
            multiply(k % 2);
          }
          if (--units > 0) {
            unit_a += kTileUnit * Layout::kPitchA, unit_b += kTileUnit * Layout::kPitchB;
            read(0, 0);
          } else if (step + 1 < steps) {
            stage = stage + Layout::kStage < shared + kRing ? stage + Layout::kStage : shared;
            arrive();
          }
          multiply(1);
        } while (units > 0);
      }
      writes = writes + Layout::kStage < kRing ? writes + Layout::kStage : 0;
    }
  }

#pragma unroll 1
  for (int round = 0; round < Layout::kGroupsM; ++round) {
    __syncthreads();  // all are done with what is there
#pragma unroll
    for (int group = 0; group < Layout::kGroupsM; ++group) {
      if (group != round) continue;  // registers have no index
#pragma unroll
      for (int i = 0; i < kVectorM; ++i)
#pragma unroll
        for (int j = 0; j < Layout::kGroupsN; ++j) {
          VectorN sums;
#pragma unroll
          for (int v = 0; v < kVectorN; ++v)
            sums.v[v] = conjugate_if(g.A.conj, acc[group * kVectorM + i][j * kVectorN + v]);
          shared_store(
              reinterpret_cast<VectorN*>(shared + (thread_row + i) * Layout::kPitchB + thread_col + j * kAcross), sums);
        }
    }
    __syncthreads();
    const TileIndex here = shared_load(kept);
    store_round<kIn, Layout>(shared, g, plan.plain_rows, here.item, here.m * shape.m + round * Layout::kRoundRows,
                             here.n * shape.n);
  }
}

template <DType kIn, TileSize kSize>
cudaError_t launch_tile_size(const Gemm& g, const GemmPlan& plan, cudaStream_t stream) {
  if constexpr (!has_tile(kIn, kSize)) {
    return cudaErrorInvalidValue;
  } else {
    using Layout = TileLayout<kIn, kSize>;
    auto* kernel = &gemm_tile<kIn, kSize, false>;
    if constexpr (is_complex(kIn))
      if (g.A.conj != g.B.conj) kernel = &gemm_tile<kIn, kSize, true>;
    using LoaderA = OperandLoader<Layout, Layout::kShape.m, Layout::kPitchA>;
    using LoaderB = OperandLoader<Layout, Layout::kShape.n, Layout::kPitchB>;
    const TileCopies a = LoaderA::copies(g.A.row_stride, g.A.col_stride, plan.a_along_k, plan.a_packed);
    const TileCopies b = LoaderB::copies(g.B.col_stride, g.B.row_stride, plan.b_along_k, plan.b_packed);
    cudaError_t error = cudaSuccess;
    for (int64_t first = 0; first < plan.tiles && error == cudaSuccess; first += plan.blocks) {
      const int64_t left = plan.tiles - first;
      error = launch_kernel(kernel, dim3(static_cast<unsigned>(left < plan.blocks ? left : plan.blocks)),
                            dim3(Layout::kThreads), Layout::kSharedBytes, stream, g, plan, a, b, first);
    }
    return error;
  }
}

template <DType kIn>
cudaError_t launch_tile(const Gemm& g, const GemmPlan& plan, cudaStream_t stream) {
  switch (plan.size) {
    case TileSize::small: return launch_tile_size<kIn, TileSize::small>(g, plan, stream);
    case TileSize::narrow: return launch_tile_size<kIn, TileSize::narrow>(g, plan, stream);
    case TileSize::medium: return launch_tile_size<kIn, TileSize::medium>(g, plan, stream);
    default: return launch_tile_size<kIn, TileSize::large>(g, plan, stream);
  }
}

}  // namespace myops
