// spmm and both its gradients at once, spmm_extremum and sddmm: products of a CSR matrix, given as its parts, with
// dense ones.
//
// The transposed product reads the pattern ordered by column. A caller that has it (csr_transpose) passes it in, else
// it is made for this call.
#pragma once
#include "csr_transpose.h"

namespace myops {

using MaybeTensor = std::optional<Tensor>;

// What a product takes beside A. turned: the problem is that of the transposes, D.T = alpha * A @ dense + beta *
// input.T; then dense is turned already, input is not.
struct Operands {
  const Tensor& dense;
  const MaybeTensor& input;
  bool mean;
  double beta, alpha;
  bool turned = false;
};

// The addend as the engine takes it; its shape broadcasts to (m, n), turned to (n, m). The tensor that is read,
// unless beta is 0.
template <class Backend>
Tensor set_addend(Spmm& p, const Tensor& c, int64_t m, int64_t n, bool turned) {
  const int64_t dims = c.dim();
  const auto fits = [&](int64_t size, int64_t wanted) { return size == 1 || size == wanted; };
  const int64_t rows = dims == 2 ? c.size(0) : 1, cols = dims >= 1 ? c.size(dims - 1) : 1;
  const int64_t sizes[2] = {turned ? n : m, turned ? m : n};
  MYOPS_CHECK(dims <= 2 && fits(rows, sizes[0]) && fits(cols, sizes[1]), "input of shape ",
              shape_text(c.sizes().data(), static_cast<int>(dims)), " cannot be broadcast to the result's shape ",
              shape_text(sizes, 2));
  Tensor read = c;
  if (p.beta == 0) return read;
  if constexpr (kRuns<Backend, Turn>)  // where whole vectors are read
    if (rows > 1 && cols > 1) {
      if (turned) read = torch::stable::transpose(c, 0, 1);
      if (read.stride(1) > 1) read = row_major<Backend>(read);
      turned = false;
    }
  p.c_row = rows == 1 ? 0 : read.stride(0);
  p.c_col = cols == 1 ? 0 : read.stride(dims - 1);
  if (turned) std::swap(p.c_row, p.c_col);
  p.C = read.const_data_ptr();
  return read;
}

// A pattern and where its entries are in another order of them.
struct ByColumn {
  Pattern pattern;
  MaybeTensor perm;
};

// The pattern of A's transpose and where its entries are in A: the caller's, or made now.
template <class Backend>
ByColumn by_column(const Pattern& A, const MaybeTensor& t_crow, const MaybeTensor& t_col, const MaybeTensor& t_perm) {
  if (!t_crow || !t_col || !t_perm) {
    const Transposed t = transposed<Backend>(A);
    return {Pattern(t.crow, "crow", t.col, "col", A.csr.rows), t.perm};
  }
  const Pattern T(*t_crow, "t_crow", *t_col, "t_col", A.csr.rows);
  check_vector(*t_perm, "t_perm");
  check_same_dtype(*t_perm, "t_perm", A.crow, "crow");
  check_same_dtype(*t_crow, "t_crow", A.crow, "crow");
  check_same_device(*t_crow, "t_crow", A.crow, "crow");
  check_same_device(*t_perm, "t_perm", A.crow, "crow");
  MYOPS_CHECK(T.csr.rows == A.csr.cols && T.csr.nnz == A.csr.nnz && t_perm->size(0) == A.csr.nnz,
              "t_crow, t_col and t_perm must have ", A.csr.cols + 1, ", ", A.csr.nnz, " and ", A.csr.nnz,
              " elements, but got ", t_crow->size(0), ", ", t_col->size(0), " and ", t_perm->size(0));
  return {T, as_contiguous(*t_perm)};
}

// The pattern of A by rows, or of its transpose.
template <class Backend>
ByColumn pattern_of(const Pattern& A, bool transpose, const MaybeTensor& t_crow = {}, const MaybeTensor& t_col = {},
                    const MaybeTensor& t_perm = {}) {
  return transpose ? by_column<Backend>(A, t_crow, t_col, t_perm) : ByColumn{A, std::nullopt};
}

inline void set_pattern(Spmm& p, const ByColumn& A) {
  p.A = A.pattern.csr;
  p.perm = A.perm ? A.perm->const_data_ptr() : nullptr;
}

// Entries in any order, by their rows.
template <class Backend>
ByColumn sorted_by_row(const Tensor& row, const Tensor& col, int64_t rows, int64_t columns) {
  const Tensor from = as_contiguous(row), carried = as_contiguous(col);
  Transpose problem;
  problem.A.rows = columns;
  problem.A.cols = rows;
  problem.A.nnz = row.size(0);
  problem.A.wide = row.scalar_type() == ScalarType::Long;
  problem.A.col = from.const_data_ptr();
  problem.row = carried.const_data_ptr();
  const auto [t, status] = ordered<Backend>(problem, row);
  MYOPS_CHECK(status == Status::ok, "row holds an index outside [0, ", rows, ")");
  return {Pattern(t.crow, "crow", t.col, "col", columns), t.perm};
}

// Of an m x k matrix, for which `multiply` runs the problem, set up but for A and perm. spread: whether the columns of
// dense may lie apart.
template <class Backend, class Multiply>
Tensor times_dense(int64_t m, int64_t k, bool spread, const Multiply& multiply, const Tensor& values,
                   const Operands& with) {
  const int64_t n = with.dense.size(1);
  Spmm p;
  p.type = dtype_of(values.scalar_type(), "spmm", "values");
  check_scalar(with.alpha, "alpha", p.type);
  check_scalar(with.beta, "beta", p.type);
  p.N = n;
  p.alpha = with.alpha;
  p.beta = with.beta;
  p.mean = with.mean;
  p.values = values.const_data_ptr();
  MaybeTensor addend;
  if (with.input) {
    check_same_dtype(*with.input, "input", values, "values");
    check_same_device(*with.input, "input", values, "values");
    addend = set_addend<Backend>(p, *with.input, m, n, with.turned);
  }
  const Tensor out = empty_matrix(m, n, values.scalar_type(), values);
  if (out.numel() == 0) return out;
  const RowMajor<Backend> b(with.dense, spread);
  p.B = b.data;
  p.b_row = b.row;
  p.b_col = b.col;
  p.D = out.mutable_data_ptr();
  if (with.alpha == 0) {  // the matrices are not read
    const int64_t starts = m + 1;
    const Tensor zeros = torch::stable::new_zeros(values, {&starts, 1}, ScalarType::Long);
    const Pattern none(zeros, "crow", empty_vector(0, ScalarType::Long, values), "col", k);
    p.A = none.csr;
    none.check(Backend::run(p, values));
    return out;
  }
  multiply(p);
  return out;
}

// Of entries whose pattern `pattern` gives, by rows, when it is needed.
template <class Backend, class PatternOf>
Tensor multiply_entries(int64_t m, int64_t k, const Tensor& values, const PatternOf& pattern, const Operands& with) {
  const auto multiply = [&](Spmm& p) {
    const ByColumn& A = pattern();
    set_pattern(p, A);
    A.pattern.check(Backend::run(p, values));
  };
  return times_dense<Backend>(m, k, Backend::gathers_spread(values.size(0), k), multiply, values, with);
}

// Of A, or of its transpose, whose pattern may be there already.
template <class Backend>
Tensor multiply_pattern(const Pattern& A, const Tensor& values, bool transpose, const MaybeTensor& t_crow,
                        const MaybeTensor& t_col, const MaybeTensor& t_perm, const Operands& with) {
  const int64_t m = transpose ? A.csr.cols : A.csr.rows, k = transpose ? A.csr.rows : A.csr.cols;
  return multiply_entries<Backend>(
      m, k, A.values(values, "spmm", "values"),
      [&] { return pattern_of<Backend>(A, transpose, t_crow, t_col, t_perm); }, with);
}

template <class Backend>
Tensor spmm(const Tensor& crow, const Tensor& col, const Tensor& values, const Tensor& dense, const MaybeTensor& input,
            const MaybeTensor& t_crow, const MaybeTensor& t_col, const MaybeTensor& t_perm,
            std::optional<int64_t> columns, bool transpose, bool mean, double beta, double alpha) {
  check_matrix(dense, "dense");
  MYOPS_CHECK(columns || !transpose, "columns must be given with transpose=True");
  const Pattern A(crow, "crow", col, "col", columns ? *columns : dense.size(0));
  check_same_dtype(dense, "dense", values, "values");
  check_same_device(dense, "dense", values, "values");
  check_matrix(dense, "dense", transpose ? A.csr.rows : A.csr.cols,
               transpose ? "as many as crow counts" : "as many as there are columns");
  return multiply_pattern<Backend>(A, values, transpose, t_crow, t_col, t_perm, {dense, input, mean, beta, alpha});
}

// What a method of a native sparse tensor returns, "aten::values" and its like.
template <class T>
T ask(const Tensor& a, const char* getter) {
  StableIValue stack[1] = {torch::stable::detail::from(a)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(getter, "", stack, TORCH_ABI_VERSION));
  return torch::stable::detail::to<T>(stack[0]);
}

// The same for an m x k matrix of blocks, whose parts are given, or with `crossed` those of its transpose. values: the
// blocks of the matrix, or with `turned` their transposes.
template <class Backend>
Tensor multiply_blocks(const Pattern& A, const Tensor& values, bool crossed, bool turned, int64_t m, int64_t k,
                       const char* name, const Operands& with) {
  BlockSpmm blocks;
  blocks.height = values.size(turned ? 2 : 1);
  blocks.width = values.size(turned ? 1 : 2);
  blocks.block_step = values.stride(0);
  blocks.row_step = values.stride(turned ? 2 : 1);
  blocks.col_step = values.stride(turned ? 1 : 2);
  const int64_t rows = crossed ? A.csr.cols : A.csr.rows, cols = crossed ? A.csr.rows : A.csr.cols;
  MYOPS_CHECK(rows * blocks.height == m && cols * blocks.width == k && values.size(0) == A.csr.nnz, name,
              " must consist of whole blocks, one for each entry of ", A.col_name);
  MYOPS_CHECK(values.scalar_type() != ScalarType::Bool, "myops.spmm is not implemented for values of dtype bool");
  const auto multiply = [&](Spmm& p) {
    const ByColumn rows_of_blocks = pattern_of<Backend>(A, crossed);
    blocks.spmm = p;
    set_pattern(blocks.spmm, rows_of_blocks);
    rows_of_blocks.pattern.check(Backend::run(blocks, values));
  };
  return times_dense<Backend>(m, k, false, multiply, values, with);
}

inline int32_t layout_of(const Tensor& t) {
  int32_t layout;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_layout(t.get(), &layout));
  return layout;
}

// A native sparse matrix S, or its transpose, times a strided one.
template <class Backend>
Tensor multiply_native(const Tensor& s, const char* name, int32_t layout, bool transpose, const Operands& with) {
  const int64_t m = s.size(transpose ? 1 : 0), k = s.size(transpose ? 0 : 1);
  const bool by_row = layout == aoti_torch_layout_sparse_csr() || layout == aoti_torch_layout_sparse_bsr();
  if (by_row || layout == aoti_torch_layout_sparse_csc() || layout == aoti_torch_layout_sparse_bsc()) {
    const Tensor outer = ask<Tensor>(s, by_row ? "aten::crow_indices" : "aten::ccol_indices");
    const Tensor inner = ask<Tensor>(s, by_row ? "aten::col_indices" : "aten::row_indices");
    const Tensor values = ask<Tensor>(s, "aten::values");
    const bool crossed = transpose == by_row;  // whether the parts are those of the transpose of what is multiplied
    const char *outer_name = by_row ? "crow" : "ccol", *inner_name = by_row ? "col" : "row";
    if (layout == aoti_torch_layout_sparse_csr() || layout == aoti_torch_layout_sparse_csc())
      return multiply_pattern<Backend>(Pattern(outer, outer_name, inner, inner_name, crossed ? m : k), values, crossed,
                                       {}, {}, {}, with);
    if constexpr (kRuns<Backend, BlockSpmm>) {
      MYOPS_CHECK(!with.mean, "mean must be False for blocks");
      MYOPS_CHECK(values.dim() == 3 && values.size(1) > 0 && values.size(2) > 0, name,
                  " must consist of blocks of numbers");
      const Pattern A(outer, outer_name, inner, inner_name, s.size(by_row ? 1 : 0) / values.size(by_row ? 2 : 1));
      return multiply_blocks<Backend>(A, values, crossed, transpose, m, k, name, with);
    }
  }
  MYOPS_CHECK(layout == aoti_torch_layout_sparse_coo(), name,
              " must be a CSR, CSC or COO tensor, or (on the CPU) a BSR or BSC tensor");
  const Tensor indices = ask<Tensor>(s, "aten::_indices"), values = ask<Tensor>(s, "aten::_values");
  MYOPS_CHECK(indices.size(0) == 2, name, " must have scalar entries");
  const Tensor row = torch::stable::select(indices, 0, transpose ? 1 : 0),
               col = torch::stable::select(indices, 0, transpose ? 0 : 1);
  const auto in_order = [&](const Tensor& crow) {
    return multiply_pattern<Backend>(Pattern(crow, "crow", col, "col", k), values, false, {}, {}, {}, with);
  };
  if (!transpose && ask<bool>(s, "aten::is_coalesced")) return in_order(csr_rows<Backend>(row, m));
  if constexpr (Backend::kReports)  // the transpose of the transpose of a coalesced one
    if (const auto [crow, status] = compressed<Backend>(row, m); status == Status::ok) return in_order(crow);
  const ByColumn sorted = sorted_by_row<Backend>(row, col, m, k);
  return multiply_entries<Backend>(m, k, sorted.pattern.values(values, "spmm", "values"), [&] { return sorted; }, with);
}

// alpha * a @ b + beta * input of which a or b is a native sparse tensor, for one call of Python's instead of four or
// more: CSR, CSC and COO, on the CPU also BSR and BSC. The result is row-major, of a COO b column-major, as torch has
// it.
template <class Backend>
Tensor native_mm(const Tensor& a, const Tensor& b, const MaybeTensor& input, bool mean, double beta, double alpha) {
  check_matrix(a, "a");
  check_matrix(b, "b");
  MYOPS_CHECK(a.size(1) == b.size(0), "a and b shapes cannot be multiplied (", a.size(0), "x", a.size(1), " and ",
              b.size(0), "x", b.size(1), ")");
  check_same_dtype(b, "b", a, "a");
  check_same_device(b, "b", a, "a");
  const int32_t a_layout = layout_of(a), b_layout = layout_of(b), strided = aoti_torch_layout_strided();
  const bool turned = a_layout == strided;  // D.T = b.T @ a.T
  MYOPS_CHECK(turned || b_layout == strided, "b must be strided where a is sparse");
  if (!turned) return multiply_native<Backend>(a, "a", a_layout, false, {b, input, mean, beta, alpha});
  MYOPS_CHECK(!mean, "mean must be False where a is strided");
  const Tensor flipped = torch::stable::transpose(a, 0, 1);
  const Tensor d = torch::stable::transpose(
      multiply_native<Backend>(b, "b", b_layout, true, {flipped, input, false, beta, alpha, true}), 0, 1);
  return b_layout == aoti_torch_layout_sparse_coo() ? d : row_major<Backend>(d);
}

template <class Backend>
std::tuple<Tensor, Tensor> spmm_extremum(const Tensor& crow, const Tensor& col, const Tensor& values,
                                         const Tensor& dense, bool minimum, bool with_arg) {
  check_matrix(dense, "dense");
  const Pattern A(crow, "crow", col, "col", dense.size(0));
  const Tensor v = A.values(values, "spmm_extremum", "values");
  check_same_dtype(dense, "dense", values, "values");
  check_same_device(dense, "dense", values, "values");
  Extremum p;
  p.type = dtype_of(values.scalar_type(), "spmm_extremum", "values");
  MYOPS_CHECK(!is_complex(p.type), "myops.spmm_extremum is not implemented for values of dtype ",
              dtype_name(values.scalar_type()), ", whose numbers have no order");
  const Tensor out = empty_matrix(A.csr.rows, dense.size(1), values.scalar_type(), values);
  const Tensor arg = with_arg ? empty_matrix(A.csr.rows, dense.size(1), crow.scalar_type(), values)
                              : empty_vector(0, crow.scalar_type(), values);
  if (out.numel() == 0) return {out, arg};
  const RowMajor<Backend> b(dense);
  p.A = A.csr;
  p.values = v.const_data_ptr();
  p.N = dense.size(1);
  p.B = b.data;
  p.b_row = b.row;
  p.D = out.mutable_data_ptr();
  p.arg = with_arg ? arg.mutable_data_ptr() : nullptr;
  p.minimum = minimum;
  A.check(Backend::run(p, values));
  return {out, arg};
}

template <class Backend>
Tensor sddmm(const Tensor& crow, const Tensor& col, const Tensor& a, const Tensor& b, const MaybeTensor&,
             const MaybeTensor&, const MaybeTensor&) {
  check_matrix(a, "a");
  check_matrix(b, "b");
  const Pattern A(crow, "crow", col, "col", b.size(0));
  check_same_device(a, "a", crow, "crow");
  check_same_device(b, "b", a, "a");
  check_same_dtype(b, "b", a, "a");
  check_matrix(a, "a", A.csr.rows, "as many as crow counts");
  MYOPS_CHECK(a.size(1) == b.size(1), "a and b must have the same number of columns, but got ", a.size(1), " and ",
              b.size(1));
  Sddmm p;
  p.type = dtype_of(a.scalar_type(), "sddmm", "a");
  MYOPS_CHECK(p.type != DType::boolean, "myops.sddmm is not implemented for a of dtype bool");
  const Tensor out = empty_vector(A.csr.nnz, a.scalar_type(), a);
  const RowMajor<Backend> left(a), right(b, Backend::gathers_spread(A.csr.nnz, A.csr.cols));
  p.A = A.csr;
  p.N = a.size(1);
  p.a = left.data;
  p.a_row = left.row;
  p.b = right.data;
  p.b_row = right.row;
  p.b_col = right.col;
  p.values = out.mutable_data_ptr();
  A.check(Backend::run(p, a));
  return out;
}

// One walk stores the gradient of every value at a distant place, 10 ns an entry on a Sapphire Rapids whose two threads
// take the lines from each other; two walks gather every row twice, 64 bytes in about 2 ns. The second is less up to
// rows of 256 bytes (0.7 to 1.4 times, by matrix), the first from 1024 on (1.0 to 1.7 times).
constexpr int64_t kOneWalkRow = 512;  // bytes

template <class Backend>
std::tuple<Tensor, Tensor> spmm_backward(const Tensor& crow, const Tensor& col, const Tensor& values,
                                         const Tensor& dense, const Tensor& grad, const MaybeTensor& t_crow,
                                         const MaybeTensor& t_col, const MaybeTensor& t_perm,
                                         std::optional<int64_t> columns, bool transpose) {
  check_matrix(dense, "dense");
  MYOPS_CHECK(columns || !transpose, "columns must be given with transpose=True");
  const Pattern A(crow, "crow", col, "col", columns ? *columns : dense.size(0));
  const Tensor v = A.values(values, "spmm_backward", "values");
  for (const auto& [t, name, by_rows] : {std::tuple{&dense, "dense", transpose}, {&grad, "grad", !transpose}}) {
    check_same_dtype(*t, name, values, "values");
    check_same_device(*t, name, values, "values");
    check_matrix(*t, name, by_rows ? A.csr.rows : A.csr.cols,
                 by_rows ? "as many as crow counts" : "as many as there are columns");
  }
  const int64_t n = dense.size(1);
  MYOPS_CHECK(grad.size(1) == n, "dense and grad must have the same number of columns, but got ", n, " and ",
              grad.size(1));
  const DType type = dtype_of(values.scalar_type(), "spmm_backward", "values");
  if constexpr (kRuns<Backend, SpmmBackward>) {
    if (n * element_size(type) >= kOneWalkRow && !is_integral(type) && A.csr.nnz > 0) {
      const ByColumn T = pattern_of<Backend>(A, !transpose, t_crow, t_col, t_perm);
      const Tensor grad_values = empty_vector(A.csr.nnz, values.scalar_type(), values);
      const Tensor grad_dense = empty_matrix(T.pattern.csr.rows, n, values.scalar_type(), values);
      const RowMajor<Backend> held(dense), gathered(grad);
      SpmmBackward p;
      set_pattern(p.spmm, T);
      p.spmm.values = v.const_data_ptr();
      p.spmm.type = type;
      p.spmm.N = n;
      p.spmm.B = gathered.data;
      p.spmm.b_row = gathered.row;
      p.spmm.D = grad_dense.mutable_data_ptr();
      p.a = held.data;
      p.a_row = held.row;
      p.dots = grad_values.mutable_data_ptr();
      T.pattern.check(Backend::run(p, values));
      return {grad_values, grad_dense};
    }
  }
  const Tensor &left = transpose ? dense : grad, &right = transpose ? grad : dense;
  return {sddmm<Backend>(crow, col, left, right, t_crow, t_col, t_perm),
          spmm<Backend>(crow, col, v, grad, std::nullopt, t_crow, t_col, t_perm, A.csr.cols, !transpose, false, 1, 1)};
}

template <class Backend>
void register_spmm(torch::stable::detail::StableLibrary& m) {
  m.impl("csr_transpose", TORCH_BOX(&csr_transpose<Backend>));
  m.impl("csr_rows", TORCH_BOX(&csr_rows<Backend>));
  m.impl("spmm", TORCH_BOX(&spmm<Backend>));
  m.impl("spmm_backward", TORCH_BOX(&spmm_backward<Backend>));
  m.impl("spmm_extremum", TORCH_BOX(&spmm_extremum<Backend>));
  m.impl("sddmm", TORCH_BOX(&sddmm<Backend>));
}

template <class Backend>
void register_native_mm(torch::stable::detail::StableLibrary& m) {
  m.impl("native_mm", TORCH_BOX(&native_mm<Backend>));
}

}  // namespace myops
