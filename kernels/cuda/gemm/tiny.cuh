// Thousands of products of side 32 at most: several to a block, bound by the bandwidth of memory.
//
// The operands of a block's items are copied to shared memory as one run where they are one run, 16 bytes at a time,
// and a thread computes 4 x 4 results of one item: a[item][row][k] is read along k, b[item][k][column] along the
// columns. Every result is the chain of multiply_add that tile.cuh computes. Where an item is broadcast (stride 0) its
// elements come from the caches; nothing is materialised.
#pragma once
#include "../element.cuh"
#include "epilogue.cuh"
#include "gemm.h"

namespace myops {

template <DType kIn, int kSide>
struct TinyLayout {
  using In = typename Element<kIn>::Type;
  using Acc = typename Element<kIn>::Acc;
  static constexpr int kThreads = tiny_threads(kIn), kItems = tiny_items(kIn, kSide);
  static constexpr int kGroups = kSide / 4;  // of 4 rows, and of 4 columns
  static constexpr int kVector = 16 / sizeof(In) < kSide ? 16 / sizeof(In) : kSide;
  // Rows and items begin at other banks than their neighbours, 16 bytes aligned.
  static constexpr int kPitch = kSide == 4 ? 4 : kSide + 4;
  static constexpr int kItemPitch = kSide == 4 ? 20 : kSide * kPitch + 8;

  struct alignas(16) Shared {
    int64_t a_offset[kItems], b_offset[kItems];
    Acc a[kItems * kItemPitch], b[kItems * kItemPitch];
  };
  static_assert(sizeof(Shared) <= 48 * 1024, "static shared memory is at most 48 KB");
};

// Copies rows x cols of `items` matrices: `count` units of kUnit neighbours along the unit stride.
template <class Layout, int kUnit>
__device__ __forceinline__ void load_tiny(typename Layout::Acc* tile, const typename Layout::In* data,
                                          const int64_t* offsets, const MatrixView& view, int items, int rows, int cols,
                                          bool along_cols) {
  using In = typename Layout::In;
  using Acc = typename Layout::Acc;
  const int units = (along_cols ? cols : rows) / kUnit, lines = along_cols ? rows : cols;
  for (int i = static_cast<int>(threadIdx.x); i < items * lines * units; i += Layout::kThreads) {
    const int item = i / (lines * units), in_item = i - item * lines * units;
    const int line = in_item / units, unit = (in_item - line * units) * kUnit;
    const int row = along_cols ? line : unit, col = along_cols ? unit : line;
    const In* address = data + shared_load(&offsets[item]) + row * view.row_stride + col * view.col_stride;
    Pack<In, kUnit> pack;
    if constexpr (kUnit == 1)
      pack.v[0] = *address;
    else
      pack = load_pack<Pack<In, kUnit>>(address);
    Acc* target = tile + item * Layout::kItemPitch + row * Layout::kPitch + col;
#pragma unroll
    for (int v = 0; v < kUnit; ++v) shared_store(target + v * (along_cols ? 1 : Layout::kPitch), widen<Acc>(pack.v[v]));
  }
}

template <DType kIn, int kSide>
__global__ void __launch_bounds__(TinyLayout<kIn, kSide>::kThreads)
    gemm_tiny(const __grid_constant__ Gemm g, const __grid_constant__ GemmPlan plan) {
  using Layout = TinyLayout<kIn, kSide>;
  using In = typename Layout::In;
  using Acc = typename Layout::Acc;
  constexpr int kRun = 16 / sizeof(Acc);  // neighbours read from shared memory at once
  using Run = Pack<Acc, kRun>;
  typename Layout::Shared& shared = shared_storage<typename Layout::Shared>();

  const int thread = static_cast<int>(threadIdx.x);
  const int mine = thread / (Layout::kGroups * Layout::kGroups), within = thread % (Layout::kGroups * Layout::kGroups);
  const int row0 = within / Layout::kGroups * 4, col0 = within % Layout::kGroups * 4;
  const int rows = static_cast<int>(g.M), cols = static_cast<int>(g.N);
  const Acc* a_rows = shared.a + mine * Layout::kItemPitch + row0 * Layout::kPitch;
  const Acc* b_cols = shared.b + mine * Layout::kItemPitch + col0;

  // What the copies leave out is read, and multiplies only itself: once zero, it stays zero.
  for (int i = thread; i < Layout::kItems * Layout::kItemPitch; i += Layout::kThreads) {
    shared_store(&shared.a[i], Acc{});
    shared_store(&shared.b[i], Acc{});
  }
  for (int64_t index = blockIdx.x; index < plan.tiles; index += gridDim.x) {
    const int64_t item0 = index * Layout::kItems, items_left = g.batch() - item0;
    const int items = items_left < Layout::kItems ? static_cast<int>(items_left) : Layout::kItems;
    for (int i = thread; i < items; i += Layout::kThreads) {
      shared_store(&shared.a_offset[i], batch_offset(g, g.A, item0 + i));
      shared_store(&shared.b_offset[i], batch_offset(g, g.B, item0 + i));
    }
    Acc acc[4][4] = {};
    for (int64_t k0 = 0; k0 < g.K; k0 += kSide) {
      const int depth = g.K - k0 < kSide ? static_cast<int>(g.K - k0) : kSide;
      __syncthreads();
      const In* a = static_cast<const In*>(g.A.data) + k0 * g.A.col_stride;
      const In* b = static_cast<const In*>(g.B.data) + k0 * g.B.row_stride;
      if (plan.a_packed)
        load_tiny<Layout, Layout::kVector>(shared.a, a, shared.a_offset, g.A, items, rows, depth, plan.a_along_k);
      else
        load_tiny<Layout, 1>(shared.a, a, shared.a_offset, g.A, items, rows, depth, plan.a_along_k);
      if (plan.b_packed)
        load_tiny<Layout, Layout::kVector>(shared.b, b, shared.b_offset, g.B, items, depth, cols, !plan.b_along_k);
      else
        load_tiny<Layout, 1>(shared.b, b, shared.b_offset, g.B, items, depth, cols, !plan.b_along_k);
      __syncthreads();

#pragma unroll 2
      for (int k = 0; k < depth; k += kRun) {
        Run a_runs[4];
#pragma unroll
        for (int i = 0; i < 4; ++i)
          a_runs[i] = shared_load(reinterpret_cast<const Run*>(a_rows + i * Layout::kPitch + k));
#pragma unroll
        for (int v = 0; v < kRun; ++v) {
          if (k + v >= depth) break;
          Run b_runs[4 / kRun];
#pragma unroll
          for (int j = 0; j < 4 / kRun; ++j)
            b_runs[j] = shared_load(reinterpret_cast<const Run*>(b_cols + (k + v) * Layout::kPitch + j * kRun));
#pragma unroll
          for (int i = 0; i < 4; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) multiply_add(acc[i][j], a_runs[i].v[v], b_runs[j / kRun].v[j % kRun]);
        }
      }
    }
    if (mine < items) {
      const Epilogue<kIn> epilogue(g, item0 + mine);
#pragma unroll
      for (int i = 0; i < 4; ++i) epilogue.store(acc[i], row0 + i, col0);
    }
  }
}

template <DType kIn, int kSide>
cudaError_t launch_tiny_side(const Gemm& g, const GemmPlan& plan, cudaStream_t stream) {
  return launch_kernel(&gemm_tiny<kIn, kSide>, dim3(static_cast<unsigned>(plan.blocks)),
                       dim3(TinyLayout<kIn, kSide>::kThreads), 0, stream, g, plan);
}

template <DType kIn>
cudaError_t launch_tiny_type(const Gemm& g, const GemmPlan& plan, cudaStream_t stream) {
  switch (tiny_side(g)) {
    case 4: return launch_tiny_side<kIn, 4>(g, plan, stream);
    case 8: return launch_tiny_side<kIn, 8>(g, plan, stream);
    case 16: return launch_tiny_side<kIn, 16>(g, plan, stream);
    default: return launch_tiny_side<kIn, 32>(g, plan, stream);
  }
}

}  // namespace myops
