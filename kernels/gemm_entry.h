// What mm, addmm, bmm, baddbmm, matmul and linear share once their own shape rules have passed:
// dtype and device checks, the result, the empty case, an `out` that aliases an input, and the call of the engine.
//
// Backend is Cpu (cpu/backend.h) or Cuda (cuda/backend.h): `static void run(const Gemm&, const Tensor& like)`.
#pragma once
#include <atomic>
#include <vector>

#include "torch_bridge.h"

namespace myops {

// Whether products are to be batch-invariant (Gemm::batch_invariant): of the whole process, because the threads of
// autograd and of a model server compute for the same user. Python sets it in each library (myops/override.py); a call
// reads it once and hands it on in the problem.
inline std::atomic<bool> batch_invariant{false};

extern "C" inline __attribute__((visibility("default"), used)) void myops_set_batch_invariant(int on) {
  batch_invariant.store(on != 0, std::memory_order_relaxed);
}

struct GemmCall {
  const char* op;
  const Tensor& a;
  const char* a_name;
  const Tensor& b;
  const char* b_name;
  const Tensor* c = nullptr;  // input or bias, broadcastable to the result
  const char* c_name = "input";
  double beta = 0, alpha = 1;
  int64_t activation = 0;
  std::optional<ScalarType> out_dtype = std::nullopt;
  const Tensor* out = nullptr;  // write here; nullptr: allocate
  const char* out_name = "out";
  std::optional<Tensor>* preactivation = nullptr;  // set to the pre-activation, where that is asked for
  const Operand* panels = nullptr;                 // the matrix that the tensor b holds packed
};

// The dtype of the result: that of the operands, or an accumulator's.
inline ScalarType result_dtype(const GemmCall& call, DType in) {
  const ScalarType type = call.a.scalar_type();
  if (!call.out_dtype || *call.out_dtype == type) return type;
  const ScalarType wide = *call.out_dtype;
  const bool ok = (wide == ScalarType::Float && (in == DType::bf16 || in == DType::f16)) ||
                  (wide == ScalarType::Int && (in == DType::i8 || in == DType::u8));
  MYOPS_CHECK(ok, "out_dtype must be the dtype of ", call.a_name, " (", dtype_name(type),
              "), float32 for bfloat16 and float16, or int32 for int8 and uint8, but got ", dtype_name(wide));
  return wide;
}

// The activation that a call names by its number.
inline Activation activation_of(const GemmCall& call, DType type) {
  static constexpr const char* names[] = {"none", "relu", "gelu", "gelu_tanh", "silu"};
  MYOPS_CHECK(call.activation >= 0 && call.activation < 5,
              "activation must be 0 (none), 1 (relu), 2 (gelu), 3 (gelu_tanh) or 4 (silu), but got ", call.activation);
  const auto f = static_cast<Activation>(call.activation);
  MYOPS_CHECK(f == Activation::none || is_floating(type) || (f == Activation::relu && is_integral(type)), "myops.",
              call.op, ": activation ", names[call.activation], " is not implemented for ", call.a_name, " of dtype ",
              dtype_name(call.a.scalar_type()));
  MYOPS_CHECK(f != Activation::none || call.preactivation == nullptr, "activation must not be 0 (none) in myops.",
              call.op);
  return f;
}

// a_row, b_column: the operand is 1-D and stands for one row or one column, which the result does not have.
// sizes: the shape of the result without those.
template <class Backend>
Tensor run_gemm(const GemmCall& call, const std::vector<int64_t>& sizes, bool a_row = false, bool b_column = false,
                bool b_transposed = false) {
  const int dims = static_cast<int>(sizes.size());
  // Dtypes that differ come before a dtype without a kernel, as in torch: the two are different exceptions.
  MYOPS_CHECK(call.panels != nullptr || call.b.scalar_type() == call.a.scalar_type(), call.a_name, " and ", call.b_name,
              " must have the same dtype, but got ", dtype_name(call.a.scalar_type()), " and ",
              dtype_name(call.b.scalar_type()));
  if (call.c != nullptr)
    MYOPS_CHECK(call.c->scalar_type() == call.a.scalar_type() || call.c->scalar_type() == call.out_dtype, call.c_name,
                " and ", call.a_name, " must have the same dtype, but got ", dtype_name(call.c->scalar_type()), " and ",
                dtype_name(call.a.scalar_type()));
  const DType in = dtype_of(call.a.scalar_type(), call.op, call.a_name);
  MYOPS_CHECK(in != DType::boolean, "myops.", call.op, " is not implemented for ", call.a_name, " of dtype bool");
  check_same_device(call.b, call.b_name, call.a, call.a_name);
  check_dims(call.a, call.op, call.a_name);
  check_dims(call.b, call.op, call.b_name);  // the result has no more dimensions than one of the two
  const ScalarType type = result_dtype(call, in);
  check_scalar(call.beta, "beta", in);
  check_scalar(call.alpha, "alpha", in);

  GemmOperands p;
  p.activation = activation_of(call, in);
  if (call.c != nullptr) {
    const Tensor& c = *call.c;
    check_same_device(c, call.c_name, call.a, call.a_name);
    const int64_t* c_sizes = c.sizes().data();
    const int c_dims = static_cast<int>(c.dim());
    bool broadcasts = c_dims <= dims;
    for (int i = 1; broadcasts && i <= c_dims; ++i)
      broadcasts = c_sizes[c_dims - i] == 1 || c_sizes[c_dims - i] == sizes[dims - i];
    MYOPS_CHECK(broadcasts, call.c_name, " of shape ", shape_text(c_sizes, c_dims),
                " cannot be broadcast to the result's shape ", shape_text(sizes.data(), dims));
  }
  if (call.out != nullptr) {
    check_out(*call.out, sizes.data(), dims, type, call.a, call.a_name, call.out_name);
    own_memory(*call.out);
  }
  Tensor out = call.out != nullptr ? *call.out : empty(sizes.data(), dims, type, call.a);

  if (call.preactivation != nullptr) {
    call.preactivation->emplace(empty(sizes.data(), dims, type, call.a));
    p.preactivation = (*call.preactivation)->data_ptr();
  }
  p.alpha = call.alpha;
  p.beta = call.beta;
  p.batch_invariant = batch_invariant.load(std::memory_order_relaxed);
  p.a = operand_of(call.a, call.op, call.a_name);
  p.b = call.panels != nullptr ? *call.panels : operand_of(call.b, call.op, call.b_name);
  p.b_panels = call.panels != nullptr;
  if (call.c != nullptr && call.beta != 0) p.c = operand_of(*call.c, call.op, call.c_name);
  p.d = operand_of(out, call.op, call.out_name);
  if (p.d.numel() == 0) return out;
  const bool in_place_c = p.c.data != nullptr && p.c.same_view(p.d);
  const bool aliased = call.out != nullptr && (p.d.overlaps(p.a) || p.d.overlaps(p.b) ||
                                               (p.c.data != nullptr && !in_place_c && p.d.overlaps(p.c)));
  Tensor target = aliased ? empty(sizes.data(), dims, type, call.a) : out;
  if (aliased) p.d = operand_of(target, call.op, call.out_name);

  if (a_row) {
    p.a.insert_dim(0);
    p.d.insert_dim(p.d.dims - (b_column ? 0 : 1));
    if (p.c.data != nullptr && p.c.dims > 0) p.c.insert_dim(p.c.dims - (b_column ? 0 : 1));
  }
  if (b_column) {
    p.b.insert_dim(1);
    p.d.insert_dim(p.d.dims);
    if (p.c.data != nullptr) p.c.insert_dim(p.c.dims);
  }
  if (b_transposed) {
    std::swap(p.b.size[p.b.dims - 1], p.b.size[p.b.dims - 2]);
    std::swap(p.b.stride[p.b.dims - 1], p.b.stride[p.b.dims - 2]);
  }
  for_each_gemm(p, [&](const Gemm& g) { Backend::run(g, call.a); });
  if (aliased) torch::stable::copy_(out, target);
  return out;
}

}  // namespace myops
