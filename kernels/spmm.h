// spmm, spmm_extremum and sddmm: products of a CSR matrix, given as its parts, with dense ones.
//
// The transposed product reads the pattern ordered by column. A caller that has it (csr_transpose) passes it in, else
// it is made for this call.
#pragma once
#include "csr_transpose.h"

namespace myops {

using MaybeTensor = std::optional<Tensor>;

// The addend as the engine takes it; its shape broadcasts to (m, n).
inline void set_addend(Spmm& p, const Tensor& c, int64_t m, int64_t n) {
  const int64_t dims = c.dim();
  const auto fits = [&](int64_t size, int64_t wanted) { return size == 1 || size == wanted; };
  const int64_t rows = dims == 2 ? c.size(0) : 1, cols = dims >= 1 ? c.size(dims - 1) : 1;
  const int64_t sizes[2] = {m, n};
  MYOPS_CHECK(dims <= 2 && fits(rows, m) && fits(cols, n), "input of shape ",
              shape_text(c.sizes().data(), static_cast<int>(dims)), " cannot be broadcast to the result's shape ",
              shape_text(sizes, 2));
  p.c_row = rows == 1 ? 0 : c.stride(0);
  p.c_col = cols == 1 ? 0 : c.stride(dims - 1);
  p.C = c.const_data_ptr();
}

template <class Backend>
Tensor spmm(const Tensor& crow, const Tensor& col, const Tensor& values, const Tensor& dense, const MaybeTensor& input,
            const MaybeTensor& t_crow, const MaybeTensor& t_col, const MaybeTensor& t_perm,
            std::optional<int64_t> columns, bool transpose, bool mean, double beta, double alpha) {
  MYOPS_CHECK(dense.dim() == 2, "dense must be a matrix, got ", dense.dim(), "-D tensor");
  MYOPS_CHECK(columns || !transpose, "columns must be given with transpose=True");
  const Pattern A(crow, "crow", col, "col", columns ? *columns : dense.size(0));
  const Tensor v = A.values(values, "spmm", "values");
  check_same_dtype(dense, "dense", values, "values");
  check_same_device(dense, "dense", values, "values");
  check_matrix(dense, "dense", transpose ? A.csr.rows : A.csr.cols,
               transpose ? "as many as crow counts" : "as many as there are columns");
  const int64_t m = transpose ? A.csr.cols : A.csr.rows, n = dense.size(1);

  Spmm p;
  p.type = dtype_of(values.scalar_type(), "spmm", "values");
  check_scalar(beta, "beta", p.type);
  check_scalar(alpha, "alpha", p.type);
  p.N = n;
  p.alpha = alpha;
  p.beta = beta;
  p.mean = mean;
  p.values = v.const_data_ptr();
  if (input) {
    check_same_dtype(*input, "input", values, "values");
    check_same_device(*input, "input", values, "values");
    set_addend(p, *input, m, n);
    if (beta == 0) p.C = nullptr;
  }
  const Tensor out = empty_matrix(m, n, values.scalar_type(), values);
  if (out.numel() == 0) return out;
  const RowMajor b(dense);
  p.B = b.data;
  p.b_row = b.row;
  p.D = out.mutable_data_ptr();

  const auto run = [&](const Pattern& pattern) {
    p.A = pattern.csr;
    pattern.check(Backend::run(p, values));
  };
  if (alpha == 0) {  // the matrices are not read
    run(Pattern(torch::stable::new_zeros(crow, {m + 1}), "crow", empty_vector(0, crow.scalar_type(), crow), "col",
                dense.size(0)));
  } else if (!transpose) {
    run(A);
  } else if (t_crow && t_col && t_perm) {
    const Pattern T(*t_crow, "t_crow", *t_col, "t_col", A.csr.rows);
    check_vector(*t_perm, "t_perm");
    check_same_dtype(*t_perm, "t_perm", crow, "crow");
    check_same_dtype(*t_crow, "t_crow", crow, "crow");
    check_same_device(*t_crow, "t_crow", crow, "crow");
    check_same_device(*t_perm, "t_perm", crow, "crow");
    MYOPS_CHECK(T.csr.rows == A.csr.cols && T.csr.nnz == A.csr.nnz && t_perm->size(0) == A.csr.nnz,
                "t_crow, t_col and t_perm must have ", A.csr.cols + 1, ", ", A.csr.nnz, " and ", A.csr.nnz,
                " elements, but got ", t_crow->size(0), ", ", t_col->size(0), " and ", t_perm->size(0));
    const Tensor perm = torch::stable::contiguous(*t_perm);
    p.perm = perm.const_data_ptr();
    run(T);
  } else {
    const Transposed t = transposed<Backend>(A);
    p.perm = t.perm.const_data_ptr();
    run(Pattern(t.crow, "crow", t.col, "col", A.csr.rows));
  }
  return out;
}

template <class Backend>
std::tuple<Tensor, Tensor> spmm_extremum(const Tensor& crow, const Tensor& col, const Tensor& values,
                                         const Tensor& dense, bool minimum) {
  MYOPS_CHECK(dense.dim() == 2, "dense must be a matrix, got ", dense.dim(), "-D tensor");
  const Pattern A(crow, "crow", col, "col", dense.size(0));
  const Tensor v = A.values(values, "spmm_extremum", "values");
  check_same_dtype(dense, "dense", values, "values");
  check_same_device(dense, "dense", values, "values");
  Extremum p;
  p.type = dtype_of(values.scalar_type(), "spmm_extremum", "values");
  MYOPS_CHECK(!is_complex(p.type), "myops.spmm_extremum is not implemented for values of dtype ",
              dtype_name(values.scalar_type()), ", whose numbers have no order");
  const Tensor out = empty_matrix(A.csr.rows, dense.size(1), values.scalar_type(), values);
  const Tensor arg = empty_matrix(A.csr.rows, dense.size(1), crow.scalar_type(), values);
  if (out.numel() == 0) return {out, arg};
  const RowMajor b(dense);
  p.A = A.csr;
  p.values = v.const_data_ptr();
  p.N = dense.size(1);
  p.B = b.data;
  p.b_row = b.row;
  p.D = out.mutable_data_ptr();
  p.arg = arg.mutable_data_ptr();
  p.minimum = minimum;
  A.check(Backend::run(p, values));
  return {out, arg};
}

template <class Backend>
Tensor sddmm(const Tensor& crow, const Tensor& col, const Tensor& a, const Tensor& b, const MaybeTensor&,
             const MaybeTensor&, const MaybeTensor&) {
  MYOPS_CHECK(a.dim() == 2, "a must be a matrix, got ", a.dim(), "-D tensor");
  MYOPS_CHECK(b.dim() == 2, "b must be a matrix, got ", b.dim(), "-D tensor");
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
  if (A.csr.nnz == 0) return out;
  const RowMajor left(a), right(b);
  p.A = A.csr;
  p.N = a.size(1);
  p.a = left.data;
  p.a_row = left.row;
  p.b = right.data;
  p.b_row = right.row;
  p.values = out.mutable_data_ptr();
  A.check(Backend::run(p, a));
  return out;
}

template <class Backend>
void register_spmm(torch::stable::detail::StableLibrary& m) {
  m.impl("csr_transpose", TORCH_BOX(&csr_transpose<Backend>));
  m.impl("csr_rows", TORCH_BOX(&csr_rows<Backend>));
  m.impl("spmm", TORCH_BOX(&spmm<Backend>));
  m.impl("spmm_extremum", TORCH_BOX(&spmm_extremum<Backend>));
  m.impl("sddmm", TORCH_BOX(&sddmm<Backend>));
}

}  // namespace myops
