// spgemm: the product of two CSR matrices given as their parts, and its gradients on their patterns.
#pragma once
#include <tuple>

#include "sparse_entry.h"

namespace myops {

// Both patterns and their values; A is m x k, B is k x columns.
struct SpgemmOperands {
  Pattern A, B;
  Tensor a, b;

  SpgemmOperands(const char* op, const Tensor& a_crow, const Tensor& a_col, const Tensor& a_values,
                 const Tensor& b_crow, const Tensor& b_col, const Tensor& b_values, int64_t columns)
      : A(a_crow, "a_crow", a_col, "a_col", b_crow.numel() - 1),
        B(b_crow, "b_crow", b_col, "b_col", columns),
        a(A.values(a_values, op, "a_values")),
        b(B.values(b_values, op, "b_values")) {
    check_same_dtype(b_crow, "b_crow", a_crow, "a_crow");
    check_same_device(b_crow, "b_crow", a_crow, "a_crow");
    check_same_dtype(b, "b_values", a, "a_values");
  }

  void check(Status status) const {
    MYOPS_CHECK(status != Status::too_many_entries,
                "the product has more entries than int32 indices can count; convert the operands' indices to int64");
    MYOPS_CHECK(status != Status::bad_crow, "a_crow and b_crow must start at 0, never decrease and end at ", A.csr.nnz,
                " and ", B.csr.nnz, ", the numbers of entries");
    MYOPS_CHECK(status != Status::bad_col, "a_col or b_col holds an index outside [0, ", A.csr.cols, ") or [0, ",
                B.csr.cols, ")");
  }
};

template <class Backend>
std::tuple<Tensor, Tensor, Tensor> spgemm(const Tensor& a_crow, const Tensor& a_col, const Tensor& a_values,
                                          const Tensor& b_crow, const Tensor& b_col, const Tensor& b_values,
                                          int64_t columns, bool coo) {
  const SpgemmOperands x("spgemm", a_crow, a_col, a_values, b_crow, b_col, b_values, columns);
  MYOPS_CHECK(!coo || x.A.csr.wide || x.A.csr.rows <= std::numeric_limits<int32_t>::max(), "a_crow counts ",
              x.A.csr.rows, " rows, more than int32 indices can number");
  Spgemm p;
  p.A = x.A.csr;
  p.B = x.B.csr;
  p.a = x.a.const_data_ptr();
  p.b = x.b.const_data_ptr();
  p.type = dtype_of(a_values.scalar_type(), "spgemm", "a_values");
  std::tuple<Tensor, Tensor, Tensor> out;
  x.check(Backend::run(p, a_values, [&](int64_t nnz) {
    const ScalarType index = a_crow.scalar_type();
    out = {empty_vector(p.A.rows + 1, index, a_crow),
           coo ? empty_matrix(2, nnz, index, a_crow) : empty_vector(nnz, index, a_crow),
           empty_vector(nnz, a_values.scalar_type(), a_values)};
    char* const indices = static_cast<char*>(std::get<1>(out).mutable_data_ptr());
    return SpgemmResult{std::get<0>(out).mutable_data_ptr(), coo ? indices + nnz * (p.A.wide ? 8 : 4) : indices,
                        std::get<2>(out).mutable_data_ptr(), coo ? indices : nullptr};
  }));
  return out;
}

template <class Backend>
std::tuple<Tensor, Tensor> spgemm_backward(const Tensor& a_crow, const Tensor& a_col, const Tensor& a_values,
                                           const Tensor& b_crow, const Tensor& b_col, const Tensor& b_values,
                                           const Tensor& c_crow, const Tensor& c_col, const Tensor& c_values,
                                           int64_t columns, bool need_a, bool need_b) {
  const SpgemmOperands x("spgemm_backward", a_crow, a_col, a_values, b_crow, b_col, b_values, columns);
  const Pattern C(c_crow, "c_crow", c_col, "c_col", columns);
  const Tensor c = C.values(c_values, "spgemm_backward", "c_values");
  check_same_dtype(c_crow, "c_crow", a_crow, "a_crow");
  check_same_device(c_crow, "c_crow", a_crow, "a_crow");
  check_same_dtype(c, "c_values", a_values, "a_values");
  MYOPS_CHECK(C.csr.rows == x.A.csr.rows, "c_crow must have ", x.A.csr.rows + 1, " elements, but got ", C.csr.rows + 1);
  const Tensor grad_a = empty_vector(need_a ? x.A.csr.nnz : 0, a_values.scalar_type(), a_values);
  const Tensor grad_b = empty_vector(need_b ? x.B.csr.nnz : 0, a_values.scalar_type(), a_values);
  SpgemmBackward p;
  p.A = x.A.csr;
  p.B = x.B.csr;
  p.C = C.csr;
  p.a = x.a.const_data_ptr();
  p.b = x.b.const_data_ptr();
  p.c = c.const_data_ptr();
  p.grad_a = need_a ? grad_a.mutable_data_ptr() : nullptr;
  p.grad_b = need_b ? grad_b.mutable_data_ptr() : nullptr;
  p.type = dtype_of(a_values.scalar_type(), "spgemm_backward", "a_values");
  x.check(Backend::run(p, a_values));
  return {grad_a, grad_b};
}

template <class Backend>
void register_spgemm(torch::stable::detail::StableLibrary& m) {
  m.impl("spgemm", TORCH_BOX(&spgemm<Backend>));
  m.impl("spgemm_backward", TORCH_BOX(&spgemm_backward<Backend>));
}

}  // namespace myops
