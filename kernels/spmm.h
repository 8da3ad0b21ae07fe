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
  p.alpha = k == 0 ? 1 : with.alpha;  // no terms are 0, whatever alpha is
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

// alpha * the products of rows of a and b at the entries of A, plus beta * input, which is read unless beta is 0.
template <class Backend>
Tensor sampled(const Pattern& A, const Tensor& a, const Tensor& b, const MaybeTensor& input, double beta,
               double alpha) {
  check_same_device(a, "a", A.crow, A.crow_name);
  check_same_device(b, "b", a, "a");
  check_same_dtype(b, "b", a, "a");
  check_matrix(a, "a", A.csr.rows, "as many as crow counts");
  MYOPS_CHECK(a.size(1) == b.size(1), "a and b must have the same number of columns, but got ", a.size(1), " and ",
              b.size(1));
  Sddmm p;
  p.type = dtype_of(a.scalar_type(), "sddmm", "a");
  MYOPS_CHECK(p.type != DType::boolean, "myops.sddmm is not implemented for a of dtype bool");
  check_scalar(alpha, "alpha", p.type);
  check_scalar(beta, "beta", p.type);
  MaybeTensor added;
  if (input && beta != 0) {
    check_same_dtype(*input, "input", a, "a");
    added = A.values(*input, "sddmm", "input");
    p.C = added->const_data_ptr();
  }
  const Tensor out = empty_vector(A.csr.nnz, a.scalar_type(), a);
  const RowMajor<Backend> left(a), right(b, Backend::gathers_spread(A.csr.nnz, A.csr.cols));
  p.A = A.csr;
  p.N = alpha == 0 ? 0 : a.size(1);  // then the matrices are not read
  p.a = left.data;
  p.a_row = left.row;
  p.b = right.data;
  p.b_row = right.row;
  p.b_col = right.col;
  p.alpha = a.size(1) == 0 ? 1 : alpha;
  p.beta = beta;
  p.values = out.mutable_data_ptr();
  A.check(Backend::run(p, a));
  return out;
}

template <class Backend>
Tensor sddmm(const Tensor& crow, const Tensor& col, const Tensor& a, const Tensor& b, const MaybeTensor&,
             const MaybeTensor&, const MaybeTensor&) {
  check_matrix(a, "a");
  check_matrix(b, "b");
  return sampled<Backend>(Pattern(crow, "crow", col, "col", b.size(0)), a, b, std::nullopt, 0, 1);
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

}  // namespace myops
