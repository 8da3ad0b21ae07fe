// Thousands of products of side 32 at most: several to a block, bound by the bandwidth of memory.
//
// The operands of a block's items are copied to shared memory as they are: as one run, 16 bytes at a time and without a
// register in between, where they are one run, else element by element. A thread computes 4 x 4 or 8 x 4 results of one
// item; what overlaps its copies are the other blocks of its multiprocessor. Every result is the chain of multiply_add
// that tile.cuh computes. Three kernels, the first that takes a problem:
//   exact   squares of 4, 8, 16 or 32, rows one after the other, and nothing after the sum: shapes are constants,
//           shared memory is read by runs, results are stored from registers
//   plain   nothing after the sum, and results that are one run: they are gathered in shared memory and stored as one
//   any     everything else, with the shared epilogue; squares are summed as in exact
// A run that is broadcast (stride 0) is copied once to a block; nothing is materialised.
#pragma once
#include "../async_copy.cuh"
#include "../element.cuh"
#include "epilogue.cuh"
#include "gemm.h"

namespace myops {

enum class TinyPath { exact, plain, any };

template <DType kIn, int kSideRounded>
struct TinyLayout {
  using In = typename Element<kIn>::Type;
  using Acc = typename Element<kIn>::Acc;
  static constexpr int kSide = kSideRounded;
  static constexpr int kThreads = tiny_threads(kIn), kItems = tiny_items(kIn, kSide), kRows = tiny_rows(kIn, kSide);
  static constexpr int kGroups = kSide / 4;  // of 4 columns
  static constexpr int kItemThreads = kThreads / kItems;
  static constexpr int kResultBytes = kThreads * kRows * 4 * static_cast<int>(sizeof(Acc));
};

// How a kernel finds an operand in shared memory, in elements, and how it is copied there.
struct TinyOperand {
  int row_stride, col_stride, item_stride;
  bool run;              // one copy for the whole block
  unsigned per_element;  // else i * per_element >> 22 is i divided by the extent that neighbouring threads walk
};
struct TinyBlock {
  TinyOperand a, b;
  int b_at;      // bytes before B
  bool squares;  // of kSide, and both operands rows one after the other
};

// exact and plain have one batch dimension.
template <TinyPath kPath>
__device__ __forceinline__ int64_t tiny_offset(const Gemm& g, const MatrixView& view, int64_t item) {
  return kPath == TinyPath::any ? batch_offset(g, view, item) : item * view.batch_stride[0];
}

// Copies `bytes` from an address aligned to 16 bytes to the beginning of a region.
template <int kThreads>
__device__ __forceinline__ void copy_run(char* shared, const char* global, int bytes) {
#pragma unroll 1
  for (int at = static_cast<int>(threadIdx.x) * 16; at < bytes; at += kThreads * 16)
    async_copy16(shared + at, global + at, bytes - at < 16 ? bytes - at : 16);
}

// Copies an operand of items item0 .. item0 + items - 1. along_cols: neighbouring threads take neighbours along a row.
template <class Layout, TinyPath kPath>
__device__ __forceinline__ void load_tiny(char* shared, const TinyOperand& s, const Gemm& g, const MatrixView& view,
                                          int64_t item0, int items, int rows, int cols, bool along_cols) {
  using In = typename Layout::In;
  const In* data = static_cast<const In*>(view.data);
  if (kPath == TinyPath::exact || s.run) {
    const int count = (items - 1) * s.item_stride + rows * cols;
    copy_run<Layout::kThreads>(shared, reinterpret_cast<const char*>(data + item0 * s.item_stride),
                               count * static_cast<int>(sizeof(In)));
    return;
  }
  const int mine = static_cast<int>(threadIdx.x) / Layout::kItemThreads;
  if (mine >= items) return;
  data += tiny_offset<kPath>(g, view, item0 + mine);
  In* target = reinterpret_cast<In*>(shared) + mine * s.item_stride;
  const int fast_size = along_cols ? cols : rows;
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x) % Layout::kItemThreads; i < rows * cols; i += Layout::kItemThreads) {
    const int slow = static_cast<int>(i * s.per_element >> 22), fast = i - slow * fast_size;
    const int row = along_cols ? slow : fast, col = along_cols ? fast : slow;
    shared_store(target + row * s.row_stride + col * s.col_stride, data[row * view.row_stride + col * view.col_stride]);
  }
}

// A thread's results from its item's operands in shared memory; row0 and col0 are its first row and column.
template <class Layout>
__device__ __forceinline__ void sum_exact(typename Layout::Acc (&acc)[Layout::kRows][4], const typename Layout::In* a,
                                          const typename Layout::In* b, int row0, int col0) {
  using In = typename Layout::In;
  using Acc = typename Layout::Acc;
  constexpr int kSide = Layout::kSide, kRun = sizeof(In) == 8 ? 2 : 4;  // neighbours read at once
  using Run = Pack<In, kRun>;
#pragma unroll 2
  for (int k = 0; k < kSide; k += kRun) {
    Run a_runs[Layout::kRows];
#pragma unroll
    for (int i = 0; i < Layout::kRows; ++i)
      a_runs[i] = shared_load(reinterpret_cast<const Run*>(a + (row0 + i) * kSide + k));
#pragma unroll
    for (int v = 0; v < kRun; ++v) {
      Run b_runs[4 / kRun];
#pragma unroll
      for (int j = 0; j < 4 / kRun; ++j)
        b_runs[j] = shared_load(reinterpret_cast<const Run*>(b + (k + v) * kSide + col0 + j * kRun));
#pragma unroll
      for (int i = 0; i < Layout::kRows; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j)
          multiply_add(acc[i][j], widen<Acc>(a_runs[i].v[v]), widen<Acc>(b_runs[j / kRun].v[j % kRun]));
    }
  }
}

// The same for any sides and strides. In the place of rows and columns that do not exist are the last that do.
template <class Layout>
__device__ __forceinline__ void sum_any(typename Layout::Acc (&acc)[Layout::kRows][4], const typename Layout::In* a,
                                        const typename Layout::In* b, int row0, int col0, int M, int N, int K,
                                        const TinyBlock& block) {
  using Acc = typename Layout::Acc;
  int a_at[Layout::kRows], b_at[4];
#pragma unroll
  for (int i = 0; i < Layout::kRows; ++i) a_at[i] = (row0 + i < M ? row0 + i : M - 1) * block.a.row_stride;
#pragma unroll
  for (int j = 0; j < 4; ++j) b_at[j] = (col0 + j < N ? col0 + j : N - 1) * block.b.col_stride;
#pragma unroll 2
  for (int k = 0; k < K; ++k, a += block.a.col_stride, b += block.b.row_stride) {
    Acc a_k[Layout::kRows], b_k[4];
#pragma unroll
    for (int i = 0; i < Layout::kRows; ++i) a_k[i] = widen<Acc>(shared_load(a + a_at[i]));
#pragma unroll
    for (int j = 0; j < 4; ++j) b_k[j] = widen<Acc>(shared_load(b + b_at[j]));
#pragma unroll
    for (int i = 0; i < Layout::kRows; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) multiply_add(acc[i][j], a_k[i], b_k[j]);
  }
}

// A run of results from shared memory to an address aligned to 16 bytes.
template <class Layout>
__device__ __forceinline__ void store_run(typename Layout::In* d, const typename Layout::In* results, int count) {
  constexpr int kVector = 16 / sizeof(typename Layout::In);
  using Vector = Pack<typename Layout::In, kVector>;
  const int thread = static_cast<int>(threadIdx.x), whole = count / kVector * kVector;
  for (int i = thread * kVector; i < whole; i += Layout::kThreads * kVector)
    store_pack(d + i, shared_load(reinterpret_cast<const Vector*>(results + i)));
  if (whole + thread < count) d[whole + thread] = shared_load(results + whole + thread);
}

template <DType kIn, int kSide, TinyPath kPath>
__global__ void __launch_bounds__(TinyLayout<kIn, kSide>::kThreads, 512 / TinyLayout<kIn, kSide>::kThreads)
    gemm_tiny(const __grid_constant__ Gemm g, const __grid_constant__ GemmPlan plan,
              const __grid_constant__ TinyBlock block) {
  using Layout = TinyLayout<kIn, kSide>;
  using In = typename Layout::In;
  using Acc = typename Layout::Acc;
  constexpr bool kExact = kPath == TinyPath::exact;
  constexpr int kRows = Layout::kRows;
  char* shared = dynamic_shared<char>();

  const int thread = static_cast<int>(threadIdx.x);
  const int mine = thread / Layout::kItemThreads, within = thread % Layout::kItemThreads;
  const int row0 = within / Layout::kGroups * kRows, col0 = within % Layout::kGroups * 4;
  const int M = kExact ? kSide : static_cast<int>(g.M), N = kExact ? kSide : static_cast<int>(g.N);
  const int K = kExact ? kSide : static_cast<int>(g.K);
  const In* a = reinterpret_cast<const In*>(shared) + mine * block.a.item_stride;
  const In* b = reinterpret_cast<const In*>(shared + block.b_at) + mine * block.b.item_stride;
  const auto alpha = Scalar<Acc>::of(g.alpha);

  for (int64_t index = blockIdx.x; index < plan.tiles; index += gridDim.x) {
    const int64_t item0 = index * plan.items,
                  items_left = (kPath == TinyPath::any ? g.batch() : g.batch_size[0]) - item0;
    const int items = items_left < plan.items ? static_cast<int>(items_left) : plan.items;
    load_tiny<Layout, kPath>(shared, block.a, g, g.A, item0, items, M, K, plan.a_along_k);
    load_tiny<Layout, kPath>(shared + block.b_at, block.b, g, g.B, item0, items, K, N, !plan.b_along_k);
    async_commit();
    async_wait<0>();
    __syncthreads();

    const bool active = mine < items && row0 < M && col0 < N;
    Acc acc[kRows][4] = {};
    if constexpr (kExact) {
      if (active) {
        sum_exact<Layout>(acc, a, b, row0, col0);
        constexpr int kStore = sizeof(In) == 8 ? 2 : 4;
        In* d = static_cast<In*>(g.D.data) + tiny_offset<kPath>(g, g.D, item0 + mine) + row0 * g.D.row_stride + col0;
#pragma unroll
        for (int i = 0; i < kRows; ++i, d += g.D.row_stride)
#pragma unroll
          for (int j = 0; j < 4; j += kStore) {
            Pack<In, kStore> pack;
#pragma unroll
            for (int v = 0; v < kStore; ++v) pack.v[v] = narrow<In>(scale(alpha, acc[i][j + v]));
            store_pack(d + j, pack);
          }
      }
    } else {
      if (kPath == TinyPath::any && block.squares) {
        if (active) sum_exact<Layout>(acc, a, b, row0, col0);
      } else if (active) {
        sum_any<Layout>(acc, a, b, row0, col0, M, N, K, block);
      }
      __syncthreads();  // the results take the operands' place
    }
    if constexpr (kPath == TinyPath::plain) {
      In* results = reinterpret_cast<In*>(shared);
#pragma unroll
      for (int i = 0; i < kRows; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j)
          if (active && row0 + i < M && col0 + j < N)
            shared_store(results + mine * M * N + (row0 + i) * N + col0 + j, narrow<In>(scale(alpha, acc[i][j])));
      __syncthreads();
      store_run<Layout>(static_cast<In*>(g.D.data) + item0 * M * N, results, items * M * N);
    }
    if constexpr (kPath == TinyPath::any) {  // a thread's own results, from where one loop can store them
      Acc* results = reinterpret_cast<Acc*>(shared) + thread;
#pragma unroll
      for (int i = 0; i < kRows; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) shared_store(results + (i * 4 + j) * Layout::kThreads, acc[i][j]);
      const Epilogue<kIn> epilogue(g, item0 + (active ? mine : 0));
#pragma unroll 1
      for (int i = 0; active && i < kRows; ++i) {
        Acc row[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) row[j] = shared_load(results + (i * 4 + j) * Layout::kThreads);
        epilogue.store(row, row0 + i, col0);
      }
    }
    __syncthreads();  // the next copies overwrite what was read
  }
}

// The operand as it is where a block copies it as one run, else by rows of an odd pitch, which are read without bank
// conflicts whichever way they are written.
inline TinyOperand tiny_operand(const MatrixView& v, int64_t rows, int64_t cols, bool run, bool along_cols) {
  TinyOperand s;
  const bool by_rows = !run || is_tiny_run(v, rows, cols, true);
  const int64_t pitch = !by_rows ? rows : run ? cols : cols | 1;
  s.run = run;
  s.row_stride = static_cast<int>(by_rows ? pitch : 1), s.col_stride = static_cast<int>(by_rows ? 1 : pitch);
  s.item_stride = static_cast<int>(!run ? rows * pitch : v.batch_stride[0] == 0 ? 0 : rows * cols);
  const int64_t extent = along_cols ? cols : rows;
  s.per_element = static_cast<unsigned>((1 << 22) / (extent > 0 ? extent : 1) + 1);
  return s;
}

template <DType kIn, int kSide>
cudaError_t launch_tiny_side(const Gemm& g, const GemmPlan& plan, cudaStream_t stream) {
  using Layout = TinyLayout<kIn, kSide>;
  // Columns one after the other would be read with bank conflicts; at side 4 a thread has an item for itself.
  const bool a_rows = is_tiny_run(g.A, g.M, g.K, true), b_rows = is_tiny_run(g.B, g.K, g.N, true);
  TinyBlock block;
  block.a = tiny_operand(g.A, g.M, g.K, plan.a_packed && (a_rows || kSide == 4), plan.a_along_k);
  block.b = tiny_operand(g.B, g.K, g.N, plan.b_packed && (b_rows || kSide == 4), !plan.b_along_k);
  block.squares = g.M == kSide && g.N == kSide && g.K == kSide && plan.a_packed && plan.b_packed && a_rows && b_rows;
  const auto bytes = [&plan](const TinyOperand& s, int64_t rows, int64_t cols) {
    const int64_t one = s.run ? rows * cols : s.item_stride;
    return static_cast<int>(ceil_divide(((plan.items - 1) * s.item_stride + one) * element_size(kIn), 16) * 16);
  };
  block.b_at = bytes(block.a, g.M, g.K);
  int shared = block.b_at + bytes(block.b, g.K, g.N);
  const bool product = is_tiny_product(g);
  auto* kernel = &gemm_tiny<kIn, kSide, TinyPath::any>;
  if (product && block.squares && is_packed(g, g.D, true, element_size(kIn) == 2 ? 8 : 16)) {
    kernel = &gemm_tiny<kIn, kSide, TinyPath::exact>;
  } else {
    if (product && is_tiny_run(g.D, g.M, g.N, true) && is_tiny_block(g, g.D, g.M, g.N))
      kernel = &gemm_tiny<kIn, kSide, TinyPath::plain>;
    if (shared < Layout::kResultBytes) shared = Layout::kResultBytes;
  }
  return launch_kernel(kernel, dim3(static_cast<unsigned>(plan.blocks)), dim3(Layout::kThreads), shared, stream, g,
                       plan, block);
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
