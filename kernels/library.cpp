// Every schema of the namespace, and nothing else. Kernels are in cpu/ and cuda/, the rest of each operator (gradients,
// fakes, autocast, batching) in myops/ops/.
//
// Why `float` for alpha and beta: Scalar does not cross the Stable ABI. Complex scalars and integers beyond 2^53 take
// the .Scalar overloads, which Python adds (myops/registration.py). Why `-> ()` for out and in-place forms: an operator
// that returns an alias of an argument cannot be functionalised.
#include "torch_bridge.h"

MYOPS_LIBRARY(MYOPS_NAMESPACE, m) {
  m.def("add(Tensor input, Tensor other, *, float alpha=1) -> Tensor");
  m.def("add.out(Tensor input, Tensor other, *, float alpha=1, Tensor(a!) out) -> ()");
  m.def("add_(Tensor(a!) input, Tensor other, *, float alpha=1) -> ()");

  m.def("mm(Tensor input, Tensor mat2, ScalarType? out_dtype=None) -> Tensor");
  m.def("mm.out(Tensor input, Tensor mat2, ScalarType? out_dtype=None, *, Tensor(a!) out) -> ()");

  m.def(
      "addmm(Tensor input, Tensor mat1, Tensor mat2, ScalarType? out_dtype=None, *, float beta=1, float alpha=1) -> "
      "Tensor");
  m.def(
      "addmm.out(Tensor input, Tensor mat1, Tensor mat2, ScalarType? out_dtype=None, *, float beta=1, float alpha=1, "
      "Tensor(a!) out) -> ()");
  m.def("addmm_(Tensor(a!) input, Tensor mat1, Tensor mat2, *, float beta=1, float alpha=1) -> ()");

  m.def("bmm(Tensor input, Tensor mat2, ScalarType? out_dtype=None) -> Tensor");
  m.def("bmm.out(Tensor input, Tensor mat2, ScalarType? out_dtype=None, *, Tensor(a!) out) -> ()");

  m.def(
      "baddbmm(Tensor input, Tensor batch1, Tensor batch2, ScalarType? out_dtype=None, *, float beta=1, float alpha=1) "
      "-> Tensor");
  m.def(
      "baddbmm.out(Tensor input, Tensor batch1, Tensor batch2, ScalarType? out_dtype=None, *, float beta=1, float "
      "alpha=1, Tensor(a!) out) -> ()");
  m.def("baddbmm_(Tensor(a!) input, Tensor batch1, Tensor batch2, *, float beta=1, float alpha=1) -> ()");

  m.def("matmul(Tensor input, Tensor other) -> Tensor");
  m.def("matmul.out(Tensor input, Tensor other, *, Tensor(a!) out) -> ()");

  m.def("linear(Tensor input, Tensor weight, Tensor? bias=None) -> Tensor");
  m.def("linear.out(Tensor input, Tensor weight, Tensor? bias=None, *, Tensor(a!) out) -> ()");
}
