// Products of float32 and float64 with at most 16 rows: one walk through B, bound by the bandwidth of memory.
//
// Not here: which problems come here and how K is shared (plan_skinny.h), products with few columns (they are
// transposed), 16-bit floats (skinny_mma.cuh).
//
// The bound: B is read once, K * N * size bytes; A stays in the caches. A lane keeps all rows' sums of its columns in
// registers, so an element of B is loaded once and used M times.
//
//   along N   B runs along N (x @ W). 32 / lanes_k neighbouring lanes own a few columns each; lanes_k rows of B are
//             read together, several times in flight.
//   along K   B runs along K (x @ W.T). lanes_k neighbouring lanes load 16 bytes each of kSkinnyColumns columns;
//             the other lanes of the warp do the same for further columns.
//
// The partial sums of lanes meet by shuffles, those of warps in shared memory, those of blocks in the workspace; each
// by a fixed tree or in ascending order. The order depends on K, N, the batch and the machine, and not on M.
#pragma once
#include "skinny_splits.cuh"

namespace myops {

// N neighbours, zeros from `left` on.
template <int N, class T>
__device__ __forceinline__ Pack<T, N> load_neighbours(const T* address, int64_t stride, int64_t left, bool packed) {
  if (packed && left >= N) return load_pack<Pack<T, N>>(address);
  Pack<T, N> pack = {};
#pragma unroll
  for (int i = 0; i < N; ++i)
    if (i < left) pack.v[i] = address[i * stride];
  return pack;
}

// What a lane has of sums that lanes share: `count` values from index `first` on, if it is their owner.
struct LaneShare {
  int first = 0, count;
  bool owner = true;
};

// Adds up values over the lanes that differ in `bit`. Where there are 2 * kHalf values, each lane keeps half of the
// sums.
template <int kHalf, int kCount, class Acc>
__device__ __forceinline__ void reduce_bit(Acc (&values)[kCount], int bit, int lowest, LaneShare& share) {
  if (bit < lowest) return;
  const bool upper = (threadIdx.x & static_cast<unsigned>(bit)) != 0;
  if constexpr (kHalf > 0) {
#pragma unroll
    for (int i = 0; i < kHalf; ++i) {
      const Acc low = values[i], high = values[i + kHalf];  // by value: a choice of address would need memory
      values[i] = (upper ? high : low) + __shfl_xor_sync(0xffffffffu, upper ? low : high, bit);
    }
    share.count = kHalf;
    share.first += upper ? kHalf : 0;
  } else {
    values[0] += __shfl_xor_sync(0xffffffffu, values[0], bit);
    share.owner &= !upper;
  }
}

// Adds up values over the lanes that differ in the bits highest .. lowest.
template <int kCount, class Acc>
__device__ __forceinline__ LaneShare reduce_lanes(Acc (&values)[kCount], int highest, int lowest) {
  LaneShare share;
  share.count = kCount;
  reduce_bit<kCount / 2>(values, highest, lowest, share);
  reduce_bit<kCount / 4>(values, highest / 2, lowest, share);
  reduce_bit<kCount / 8>(values, highest / 4, lowest, share);
  reduce_bit<kCount / 16>(values, highest / 8, lowest, share);
  reduce_bit<kCount / 32>(values, highest / 16, lowest, share);
  return share;
}

template <DType kIn, int kRows, SkinnyForm kForm>
struct SkinnyLayout {
  using In = typename Element<kIn>::Type;
  using Acc = typename Element<kIn>::Acc;
  static constexpr int kVector = kForm == SkinnyForm::along_n ? skinny_lane_columns(kIn, kForm) : 16 / sizeof(In);
  static constexpr int kColumns = skinny_lane_columns(kIn, kForm);  // at most 8 times as many in a warp
  struct alignas(16) Shared {
    Acc partial[kSkinnyWarps * kRows * kColumns * 8];  // [warp along K][row][column of the block]
  };
};

// What a lane walks through: its share of one item's A and B.
template <class In>
struct SkinnyWalk {
  const In *a, *b;  // a: row 0, k = 0; b: the first column of the lane, k = 0
  int64_t k0, k1;   // of the block
  int64_t left_n;   // columns that exist from that of b on
  int slot, slots;  // which of the lanes that share K
};

template <class Layout, int kRows>
__device__ __forceinline__ void walk_along_k(typename Layout::Acc (&acc)[kRows * Layout::kColumns], const Gemm& g,
                                             const GemmPlan& plan, const SkinnyWalk<typename Layout::In>& w) {
  using In = typename Layout::In;
  using Acc = typename Layout::Acc;
  constexpr int kVector = Layout::kVector, kColumns = Layout::kColumns;
  using Vector = Pack<In, kVector>;
  int64_t k = w.k0 + w.slot * kVector;
  constexpr bool kFits = sizeof(acc) < 512;  // the sums of 16 rows in float64 leave no registers for a second loop
  if (kFits && plan.a_packed && plan.b_packed && w.left_n > 0) {
    // Whole vectors, of columns and rows that exist: the spare ones repeat the last, and nobody stores their sums.
#pragma unroll 1
    for (; k + kVector <= w.k1; k += w.slots * kVector) {
      Vector b[kColumns];
      const In* column = w.b + k;
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        b[c] = load_pack<Vector>(column);
        column += c + 1 < w.left_n ? g.B.col_stride : 0;
      }
      const In* row = w.a + k;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const Vector a = load_pack<Vector>(row);
        row += r + 1 < g.M ? g.A.row_stride : 0;
#pragma unroll
        for (int c = 0; c < kColumns; ++c)
#pragma unroll
          for (int v = 0; v < kVector; ++v)
            multiply_add(acc[r * kColumns + c], widen<Acc>(a.v[v]), widen<Acc>(b[c].v[v]));
      }
    }
  }
#pragma unroll 1
  for (; k < w.k1; k += w.slots * kVector) {
    const int64_t left = w.k1 - k;
    Vector b[kColumns];
#pragma unroll
    for (int c = 0; c < kColumns; ++c)
      b[c] = load_neighbours<kVector>(w.b + c * g.B.col_stride + k * g.B.row_stride, g.B.row_stride,
                                      c < w.left_n ? left : 0, plan.b_packed);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const Vector a = load_neighbours<kVector>(w.a + r * g.A.row_stride + k * g.A.col_stride, g.A.col_stride,
                                                r < g.M ? left : 0, plan.a_packed);
#pragma unroll
      for (int c = 0; c < kColumns; ++c)
#pragma unroll
        for (int v = 0; v < kVector; ++v)
          multiply_add(acc[r * kColumns + c], widen<Acc>(a.v[v]), widen<Acc>(b[c].v[v]));
    }
  }
}

template <class Layout, int kRows>
__device__ __forceinline__ void walk_along_n(typename Layout::Acc (&acc)[kRows * Layout::kColumns], const Gemm& g,
                                             const GemmPlan& plan, const SkinnyWalk<typename Layout::In>& w) {
  using In = typename Layout::In;
  using Acc = typename Layout::Acc;
  constexpr int kVector = Layout::kVector;
  constexpr int kBytesInFlight = kRows < 16 ? 64 : 32;  // of a lane: the sums of 16 rows leave few registers
  constexpr int kUnroll = kBytesInFlight / (kVector * static_cast<int>(sizeof(In)));
  int64_t k = w.k0 + w.slot;
  if (plan.b_packed && w.left_n >= kVector) {
    // Whole steps; the spare rows repeat the last, and nobody stores their sums.
    const int64_t b_step = w.slots * g.B.row_stride, a_step = w.slots * g.A.col_stride;
    const In *b_row = w.b + k * g.B.row_stride, *a_column = w.a + k * g.A.col_stride;
#pragma unroll 1
    for (; k + (kUnroll - 1) * w.slots < w.k1; k += kUnroll * w.slots) {
      Pack<In, kVector> b[kUnroll];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u, b_row += b_step) b[u] = load_pack<Pack<In, kVector>>(b_row);
#pragma unroll
      for (int u = 0; u < kUnroll; ++u, a_column += a_step) {
        const In* a = a_column;  // stepped on by rows: sixteen addresses would not fit beside the sums
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const Acc x = widen<Acc>(*a);
          a += r + 1 < g.M ? g.A.row_stride : 0;
#pragma unroll
          for (int v = 0; v < kVector; ++v) multiply_add(acc[r * kVector + v], x, widen<Acc>(b[u].v[v]));
        }
      }
    }
  }
#pragma unroll 1
  for (; k < w.k1; k += w.slots) {
    const auto b = load_neighbours<kVector>(w.b + k * g.B.row_stride, g.B.col_stride, w.left_n, plan.b_packed);
    const In* a = w.a + k * g.A.col_stride;
#pragma unroll
    for (int r = 0; r < kRows; ++r, a += g.A.row_stride) {
      const Acc x = widen<Acc>(r < g.M ? *a : In{});
#pragma unroll
      for (int v = 0; v < kVector; ++v) multiply_add(acc[r * kVector + v], x, widen<Acc>(b.v[v]));
    }
  }
}

template <DType kIn, int kRows, SkinnyForm kForm>
__global__ void __launch_bounds__(kSkinnyThreads, 1)
    gemm_skinny(const __grid_constant__ Gemm g, const __grid_constant__ GemmPlan plan, void* workspace) {
  using Layout = SkinnyLayout<kIn, kRows, kForm>;
  using In = typename Layout::In;
  using Acc = typename Layout::Acc;
  constexpr int kColumns = Layout::kColumns;
  constexpr bool kNeighboursAlongN = kForm == SkinnyForm::along_n;
  typename Layout::Shared& shared = shared_storage<typename Layout::Shared>();

  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int lanes_n = 32 / plan.lanes_k;
  const int lane_k = kNeighboursAlongN ? lane / lanes_n : lane % plan.lanes_k;
  const int lane_n = kNeighboursAlongN ? lane % lanes_n : lane / plan.lanes_k;
  const int warp_k = warp % plan.warps_k;
  const int columns = lanes_n * kColumns * (kSkinnyWarps / plan.warps_k);  // of the block
  const int column = (warp / plan.warps_k * lanes_n + lane_n) * kColumns;
  const auto partial = [&](int part, int row, int col) -> Acc& {
    return shared.partial[(part * kRows + row) * columns + col];
  };

  for (int64_t index = blockIdx.x; index < plan.tiles; index += gridDim.x) {
    const int64_t line = plan.tiles == plan.tiles_n ? 0 : index / plan.tiles_n;
    const int64_t col0 = (index - line * plan.tiles_n) * columns;
    const int64_t item = plan.splits == 1 ? line : line / plan.splits, split = line - item * plan.splits;
    wait_for_previous_kernel();
    let_next_kernel_begin();
    SkinnyWalk<In> walk;
    walk.a = static_cast<const In*>(g.A.data) + batch_offset(g, g.A, item);
    walk.b = static_cast<const In*>(g.B.data) + batch_offset(g, g.B, item) + (col0 + column) * g.B.col_stride;
    walk.k0 = split * plan.split_k;
    walk.left_n = g.N - col0 - column;
    walk.k1 = walk.left_n <= 0               ? walk.k0  // nobody stores what this lane would sum
              : g.K - walk.k0 < plan.split_k ? g.K
                                             : walk.k0 + plan.split_k;
    walk.slot = warp_k * plan.lanes_k + lane_k;
    walk.slots = plan.warps_k * plan.lanes_k;

    Acc acc[kRows * kColumns] = {};
    if constexpr (kNeighboursAlongN)
      walk_along_n<Layout, kRows>(acc, g, plan, walk);
    else
      walk_along_k<Layout, kRows>(acc, g, plan, walk);
    const LaneShare share = kNeighboursAlongN ? reduce_lanes(acc, 16, lanes_n) : reduce_lanes(acc, plan.lanes_k / 2, 1);
#pragma unroll
    for (int i = 0; i < kRows * kColumns; ++i)
      if (i < share.count && share.owner)
        shared_store(&partial(warp_k, (share.first + i) / kColumns, column + (share.first + i) % kColumns), acc[i]);
    __syncthreads();

    const int64_t d_base = batch_offset(g, g.D, item);
    const int quads = columns / 4;
#pragma unroll 1
    for (int i = thread; i < kRows * quads; i += kSkinnyThreads) {
      const int row = i / quads, quad = i % quads * 4;
      Acc sum[4] = {};
#pragma unroll 1
      for (int w = 0; w < plan.warps_k; ++w)
#pragma unroll
        for (int v = 0; v < 4; ++v) sum[v] += shared_load(&partial(w, row, quad + v));
      store_skinny<kIn>(sum, g, plan, split, item, d_base, row, col0 + quad, workspace);
    }
    __syncthreads();
  }
}

template <DType kIn, int kRows, SkinnyForm kForm>
cudaError_t launch_skinny_form(const Gemm& g, const GemmPlan& plan, void* workspace, cudaStream_t stream) {
  const cudaError_t error =
      launch_kernel_early(plan.early, &gemm_skinny<kIn, kRows, kForm>, dim3(static_cast<unsigned>(plan.blocks)),
                          dim3(kSkinnyThreads), 0, stream, g, plan, workspace);
  return error != cudaSuccess || plan.splits == 1 ? error : launch_combine<kIn>(g, plan, workspace, stream);
}

template <DType kIn, SkinnyForm kForm>
cudaError_t launch_skinny_rows(const Gemm& g, const GemmPlan& plan, void* workspace, cudaStream_t stream) {
  if (g.M <= 1) return launch_skinny_form<kIn, 1, kForm>(g, plan, workspace, stream);
  if (g.M <= 2) return launch_skinny_form<kIn, 2, kForm>(g, plan, workspace, stream);
  if (g.M <= 4) return launch_skinny_form<kIn, 4, kForm>(g, plan, workspace, stream);
  if (g.M <= 8) return launch_skinny_form<kIn, 8, kForm>(g, plan, workspace, stream);
  return launch_skinny_form<kIn, 16, kForm>(g, plan, workspace, stream);
}

template <DType kIn>
cudaError_t launch_skinny_type(const Gemm& g, const GemmPlan& plan, void* workspace, cudaStream_t stream) {
  return plan.b_along_k ? launch_skinny_rows<kIn, SkinnyForm::along_k>(g, plan, workspace, stream)
                        : launch_skinny_rows<kIn, SkinnyForm::along_n>(g, plan, workspace, stream);
}

}  // namespace myops
