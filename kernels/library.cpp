// Every schema of the namespace, and nothing else. Kernels are in cpu/ and cuda/, the rest of each operator (gradients,
// fakes, autocast, batching) in myops/ops/.
//
// Why `float` for alpha and beta: Scalar does not cross the Stable ABI. Complex scalars and integers beyond 2^53 take
// the .Scalar overloads, which Python adds (myops/registration.py). Why `-> ()` for out and in-place forms: an operator
// that returns an alias of an argument cannot be functionalised. Why `int` for activation (Activation in
// matrix_view.h): the ABI's conversion of a `str` leaks it.
#include "torch_bridge.h"

MYOPS_LIBRARY(MYOPS_NAMESPACE, m) {
  m.def("add(Tensor input, Tensor other, *, float alpha=1) -> Tensor");
  m.def("add.out(Tensor input, Tensor other, *, float alpha=1, Tensor(a!) out) -> ()");
  m.def("add_(Tensor(a!) input, Tensor other, *, float alpha=1) -> ()");

  m.def("mm(Tensor input, Tensor mat2, ScalarType? out_dtype=None) -> Tensor");
  m.def("mm.out(Tensor input, Tensor mat2, ScalarType? out_dtype=None, *, Tensor(a!) out) -> ()");

  m.def(
      "addmm(Tensor input, Tensor mat1, Tensor mat2, ScalarType? out_dtype=None, *, float beta=1, float alpha=1, int "
      "activation=0) -> Tensor");
  m.def(
      "addmm.out(Tensor input, Tensor mat1, Tensor mat2, ScalarType? out_dtype=None, *, float beta=1, float alpha=1, "
      "int activation=0, Tensor(a!) out) -> ()");
  m.def("addmm_(Tensor(a!) input, Tensor mat1, Tensor mat2, *, float beta=1, float alpha=1, int activation=0) -> ()");

  m.def("bmm(Tensor input, Tensor mat2, ScalarType? out_dtype=None) -> Tensor");
  m.def("bmm.out(Tensor input, Tensor mat2, ScalarType? out_dtype=None, *, Tensor(a!) out) -> ()");

  m.def(
      "baddbmm(Tensor input, Tensor batch1, Tensor batch2, ScalarType? out_dtype=None, *, float beta=1, float alpha=1, "
      "int activation=0) -> Tensor");
  m.def(
      "baddbmm.out(Tensor input, Tensor batch1, Tensor batch2, ScalarType? out_dtype=None, *, float beta=1, float "
      "alpha=1, int activation=0, Tensor(a!) out) -> ()");
  m.def(
      "baddbmm_(Tensor(a!) input, Tensor batch1, Tensor batch2, *, float beta=1, float alpha=1, int activation=0) -> "
      "()");

  m.def("matmul(Tensor input, Tensor other) -> Tensor");
  m.def("matmul.out(Tensor input, Tensor other, *, Tensor(a!) out) -> ()");

  m.def("linear(Tensor input, Tensor weight, Tensor? bias=None, *, int activation=0) -> Tensor");
  m.def("linear.out(Tensor input, Tensor weight, Tensor? bias=None, *, int activation=0, Tensor(a!) out) -> ()");

  // The result and the pre-activation, which the gradient needs; activation is never 0.
  m.def(
      "linear_with_preactivation(Tensor input, Tensor weight, Tensor? bias=None, *, int activation) -> (Tensor, "
      "Tensor)");
  m.def(
      "addmm_with_preactivation(Tensor input, Tensor mat1, Tensor mat2, ScalarType? out_dtype=None, *, float beta=1, "
      "float alpha=1, int activation) -> (Tensor, Tensor)");
  m.def(
      "baddbmm_with_preactivation(Tensor input, Tensor batch1, Tensor batch2, ScalarType? out_dtype=None, *, float "
      "beta=1, float alpha=1, int activation) -> (Tensor, Tensor)");

  // A packed weight is a uint8 vector that describes itself; shape and dtype are there for fakes, which cannot read it.
  m.def("pack_weight(Tensor weight) -> Tensor");
  m.def("unpack_weight(Tensor panels, SymInt out_features, SymInt in_features, *, ScalarType dtype) -> Tensor");
  m.def(
      "linear_packed(Tensor input, Tensor panels, Tensor? bias=None, *, SymInt out_features, ScalarType dtype, int "
      "activation=0) -> Tensor");

  // Sparse matrices are their parts: crow, col and values of CSR. t_crow, t_col and t_perm are csr_transpose's results
  // for callers that have them.
  m.def("csr_transpose(Tensor crow, Tensor col, SymInt columns) -> (Tensor, Tensor, Tensor)");
  m.def("csr_rows(Tensor row, SymInt rows) -> Tensor");
  m.def(
      "spmm(Tensor crow, Tensor col, Tensor values, Tensor dense, Tensor? input=None, Tensor? t_crow=None, Tensor? "
      "t_col=None, Tensor? t_perm=None, *, SymInt? columns=None, bool transpose=False, bool mean=False, float beta=1, "
      "float alpha=1) -> Tensor");
  // Of native sparse tensors; their autograd kernels take them apart instead (myops/sparse.py).
  m.def("native_mm(Tensor a, Tensor b, Tensor? input=None, *, bool mean=False, float beta=1, float alpha=1) -> Tensor");
  m.def("native_extremum(Tensor a, Tensor b, *, bool minimum=False) -> Tensor");
  m.def("native_bmm(Tensor a, Tensor b) -> Tensor");
  m.def("native_sampled_addmm(Tensor input, Tensor mat1, Tensor mat2, *, float beta=1, float alpha=1) -> Tensor");
  m.def("native_spgemm(Tensor a, Tensor b) -> Tensor");
  m.def(
      "spmm_backward(Tensor crow, Tensor col, Tensor values, Tensor dense, Tensor grad, Tensor? t_crow=None, Tensor? "
      "t_col=None, Tensor? t_perm=None, *, SymInt? columns=None, bool transpose=False) -> (Tensor, Tensor)");
  m.def(
      "spmm_extremum(Tensor crow, Tensor col, Tensor values, Tensor dense, *, bool minimum=False, bool with_arg=True) "
      "-> (Tensor, Tensor)");
  m.def(
      "sddmm(Tensor crow, Tensor col, Tensor a, Tensor b, Tensor? t_crow=None, Tensor? t_col=None, Tensor? "
      "t_perm=None) -> Tensor");
  // coo: the second result is (2, nnz), rows and columns.
  m.def(
      "spgemm(Tensor a_crow, Tensor a_col, Tensor a_values, Tensor b_crow, Tensor b_col, Tensor b_values, SymInt "
      "columns, *, bool coo=False) -> (Tensor, Tensor, Tensor)");
  m.def(
      "spgemm_backward(Tensor a_crow, Tensor a_col, Tensor a_values, Tensor b_crow, Tensor b_col, Tensor b_values, "
      "Tensor c_crow, Tensor c_col, Tensor c_values, SymInt columns, *, bool need_a=True, bool need_b=True) -> "
      "(Tensor, Tensor)");
}
