// Plans of tiny.cuh. a_packed, b_packed: what a block needs of that operand is one run of memory.
#pragma once
#include "plan_skinny.h"

namespace myops {

// Where one side is for skinny otherwise, whose blocks have an item each, K may be longer. Guess.
constexpr int kTinySide = 32, kTinyDepth = 64, kTinyDepthOfFew = 256;

// What the operands of a block may take of shared memory, of which a GPU has 99 to 227 KB: several blocks overlap.
constexpr int64_t kTinyBytes = 48 * 1024;

// The threads of a block of tiny products; the rows of 4 results that a thread owns, more where shared memory would
// limit; the items that it has threads for; their side rounded up.
constexpr int tiny_threads(DType in) { return element_size(in) == 8 ? 64 : 128; }
constexpr int tiny_rows(DType in, int side) { return side == 32 && element_size(in) < 8 ? 8 : 4; }
constexpr int tiny_items(DType in, int side) { return tiny_threads(in) / (side / tiny_rows(in, side) * (side / 4)); }
inline int tiny_side(const Gemm& g) {
  int side = 4;
  while (side < g.M || side < g.N) side *= 2;
  return side;
}

// What the operands of an item take, their rows counted with the odd pitch that they may get.
inline int64_t tiny_bytes(const Gemm& g) { return (g.M * (g.K | 1) + g.K * (g.N | 1)) * element_size(g.in); }

// The items of a block: as many as it has threads for, or half, a quarter ... of them, where K is long.
inline int tiny_items(const Gemm& g) {
  int items = tiny_items(g.in, tiny_side(g));
  while (items > 1 && items * tiny_bytes(g) > kTinyBytes) items /= 2;
  return items;
}

// Whether a matrix is one run of rows * cols elements, its rows one after the other or its columns.
inline bool is_tiny_run(const MatrixView& v, int64_t rows, int64_t cols, bool by_rows) {
  const int64_t row = by_rows ? cols : 1, col = by_rows ? 1 : rows;
  return (rows == 1 || v.row_stride == row) && (cols == 1 || v.col_stride == col);
}

// Whether what a block needs of an operand is one run of memory that begins at a multiple of 16 bytes: items one after
// the other, or one that all share.
inline bool is_tiny_block(const Gemm& g, const MatrixView& v, int64_t rows, int64_t cols) {
  if (g.batch_dims != 1 || reinterpret_cast<uintptr_t>(v.data) % 16 != 0) return false;
  if (!is_tiny_run(v, rows, cols, true) && !is_tiny_run(v, rows, cols, false)) return false;
  const int64_t step = v.batch_stride[0], items = tiny_items(g);
  return step == 0 || (step == rows * cols && items * step * element_size(g.in) % 16 == 0);
}

// A result that is nothing but the product, rounded.
inline bool is_tiny_product(const Gemm& g) {
  return g.C.data == nullptr && g.activation == Activation::none && g.out == g.in;
}

inline bool takes_tiny_shape(const Gemm& g) {
  const int64_t few = g.M < g.N ? g.M : g.N;
  return is_floating(g.in) && g.M <= kTinySide && g.N <= kTinySide &&
         g.K <= (few <= kSkinnyRows ? kTinyDepthOfFew : kTinyDepth) && tiny_bytes(g) <= kTinyBytes;
}

inline GemmPlan plan_tiny(const Gemm& problem) {
  GemmPlan plan;
  plan.kernel = GemmKernel::tiny;
  plan.transpose = runs_down(problem);
  const Gemm g = plan.transpose ? transposed(problem) : problem;
  plan.a_along_k = loads_along_k(g.A.col_stride, g.K, g.A.row_stride, g.M);
  plan.b_along_k = loads_along_k(g.B.row_stride, g.K, g.B.col_stride, g.N);
  plan.a_packed = is_tiny_block(g, g.A, g.M, g.K);
  plan.b_packed = is_tiny_block(g, g.B, g.K, g.N);
  plan.items = tiny_items(g);
  plan.tiles = ceil_divide(g.batch(), plan.items);
  plan.blocks = plan.tiles < kMaxBlocks ? plan.tiles : kMaxBlocks;
  return plan;
}

inline bool takes_tiny(const Gemm& g, const Machine& machine) {
  return takes_tiny_shape(g) && g.batch() >= 2 * machine.multiprocessors;
}

}  // namespace myops
