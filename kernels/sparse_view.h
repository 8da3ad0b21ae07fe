// What an engine sees of a sparse product: pointers, sizes, dtypes. Plain C++17, shared by CPU and CUDA.
//
//   Spmm       D = alpha * A @ B + beta * C             A is M x K in CSR, B is K x N, C and D are M x N
//   BlockSpmm  the same for A in BSR
//   ScatterSpmm  the same for A of entries in any order, far fewer than rows
//   Extremum   D[i, j] = max (min) over the entries e of row i of value[e] * B[col[e], j], and which entry it was
//   Sddmm      value[e] = alpha * sum over n of A[i, n] * B[col[e], n] + beta * C[e], for every entry e = (i, col[e])
//   SpmmBackward  an Spmm and an Sddmm over one pattern that gather the same rows: both gradients of a product
//   Turn       a row-major copy of a dense operand
//   Join       the entries of a batch of matrices as those of one block-diagonal matrix
//   Transpose  the same entries ordered by column: a counting sort, stable
//   CompressRows  crow of entries that are sorted by row
//   Spgemm     C = A @ B, all three in CSR; its gradients on the patterns of A and B
//
// Rules every engine keeps:
//   * Columns within a row come in any order and may repeat: a repeated entry counts each time.
//   * crow starts at 0, never falls and ends at nnz, and 0 <= col < K: engines find out while they work and say so
//     (Status) instead of reading outside; what they have written by then is not used.
//   * b_col is 1 unless the backend says that it takes others (gathers_spread; never for blocks), or where N is 1.
//   * 16-bit floats accumulate in float32 and round once; integers are modular. The order of every sum depends on the
//     pattern and on how dense operands are laid out, never on threads or on what runs beside.
#pragma once
#include <cstdint>
#include <functional>

#include "matrix_view.h"

namespace myops {

enum class Status : int { ok, bad_crow, bad_col, too_many_entries };

// Row i has entries [crow[i], crow[i + 1]). Both arrays are contiguous and of one width.
struct Csr {
  int64_t rows = 0, cols = 0, nnz = 0;
  const void *crow = nullptr, *col = nullptr;
  bool wide = true;  // 64-bit indices; else 32-bit
};

struct Spmm {
  Csr A;
  const void* values = nullptr;
  const void* perm = nullptr;  // entry e has values[perm[e]]; nullptr: values[e]
  DType type = DType::f32;     // of everything
  int64_t N = 0;
  const void* B = nullptr;
  int64_t b_row = 0, b_col = 1;
  const void* C = nullptr;  // nullptr: never read
  int64_t c_row = 0, c_col = 0;
  void* D = nullptr;  // contiguous
  double alpha = 1, beta = 1;
  bool mean = false;  // divide each row's sum by its number of entries, 1 at least
};

// The same where the entries of A, its rows and its columns are of dense blocks, height x width. Steps: elements from
// a block to the next, from a row of a block and from a column to the next.
struct BlockSpmm {
  Spmm spmm;  // no mean
  int64_t height = 1, width = 1;
  int64_t block_step = 1, row_step = 1, col_step = 1;
};

// Each product is rounded to the dtype of D on its own: not for 16-bit floats.
struct ScatterSpmm {
  Spmm spmm;                  // no mean, no perm; A.crow is not there, A.col in any order, b_col any
  const void* row = nullptr;  // of each entry, as wide as A.col
};

struct Extremum {
  Csr A;
  const void* values = nullptr;
  DType type = DType::f32;
  int64_t N = 0;
  const void* B = nullptr;
  int64_t b_row = 0;
  void* D = nullptr;    // contiguous; 0 for a row without entries
  void* arg = nullptr;  // contiguous, of the index dtype: the entry, nnz for a row without entries; nullptr: not wanted
  bool minimum = false;
};

struct Sddmm {
  Csr A;  // the pattern
  DType type = DType::f32;
  int64_t N = 0;
  const void *a = nullptr, *b = nullptr;  // columns of a have unit stride (or N == 1)
  int64_t a_row = 0, b_row = 0, b_col = 1;
  const void* C = nullptr;  // of the entries; nullptr: never read
  double alpha = 1, beta = 1;
  void* values = nullptr;
};

// The rows of spmm.B that an entry gathers serve its product with the row of `a` too.
struct SpmmBackward {
  Spmm spmm;                // of A @ B alone
  const void* a = nullptr;  // rows of A x N, columns have unit stride (or N == 1)
  int64_t a_row = 0;
  void* dots = nullptr;  // of entry e: at perm[e], where spmm has a perm
};

// rows x cols elements of 1, 2, 4 or 8 bytes, any of which are `column` elements away from those in the next column.
struct Turn {
  const void* from = nullptr;
  int64_t column = 0, rows = 0, cols = 0, bytes = 0;
  void* to = nullptr;
};

// batch matrices, rows x cols; bad_crow where a row is outside, bad_col where a column is.
struct Join {
  const int64_t *item = nullptr, *row = nullptr, *col = nullptr;
  int64_t nnz = 0, batch = 0, rows = 0, cols = 0;
  int64_t *to_row = nullptr, *to_col = nullptr;
};

struct Transpose {
  Csr A;
  const void* row = nullptr;                              // of each entry, in any order, where A.crow is nullptr
  void *crow = nullptr, *col = nullptr, *perm = nullptr;  // of the width of A's indices; cols + 1, nnz, nnz
};

// crow out of the sorted rows of the entries; bad_crow where they are not sorted, bad_col where one is outside.
struct CompressRows {
  const void* row = nullptr;
  int64_t nnz = 0, rows = 0;
  bool wide = true;
  void* crow = nullptr;
};

struct Spgemm {
  Csr A, B;
  const void *a = nullptr, *b = nullptr;  // values
  DType type = DType::f32;
};

// Where C goes, asked for once its number of entries is known.
struct SpgemmResult {
  void *crow = nullptr, *col = nullptr, *values = nullptr;
  void* row = nullptr;  // of each entry; nullptr: not wanted
};
using SpgemmSink = std::function<SpgemmResult(int64_t nnz)>;

struct SpgemmBackward {
  Csr A, B, C;
  const void *a = nullptr, *b = nullptr, *c = nullptr;  // values; c: the gradient, on any pattern
  void *grad_a = nullptr, *grad_b = nullptr;            // nullptr: not wanted
  DType type = DType::f32;
};

}  // namespace myops
