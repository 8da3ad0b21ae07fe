// The only header that includes torch's: tensors to operands, checks that name the argument, allocation, aten calls.
//
// Only torch/csrc/stable and torch/headeronly are included (LibTorch Stable ABI, target 2.11), so one binary serves
// every later torch. All failures here are RuntimeErrors in Python; the Python layer turns "not implemented for" into
// NotImplementedError.
#pragma once
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cctype>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>

#include "gemm_problem.h"
#include "matrix_view.h"

// The namespace that the operators live in and the dispatch key of the CUDA kernels. The CPU emulation of the CUDA
// kernels sets both, to register the same sources beside the real operators.
#ifndef MYOPS_NAMESPACE
#define MYOPS_NAMESPACE myops
#endif
#ifndef MYOPS_CUDA_KEY
#define MYOPS_CUDA_KEY CUDA
#endif
// STABLE_TORCH_LIBRARY_IMPL pastes its arguments, so they have to be expanded first.
#define MYOPS_LIBRARY(ns, m) STABLE_TORCH_LIBRARY(ns, m)
#define MYOPS_LIBRARY_IMPL(ns, key, m) STABLE_TORCH_LIBRARY_IMPL(ns, key, m)
// Kernels that a sparse tensor among the arguments leads to: SparseCsr a compressed one, Sparse a COO tensor.
#define MYOPS_SPARSE_LIBRARY_IMPL(ns, sparse, key, m) STABLE_TORCH_LIBRARY_IMPL(ns, sparse##key, m)
#define MYOPS_SPARSE_LIBRARY_IMPL_EXPANDED(ns, sparse, key, m) MYOPS_SPARSE_LIBRARY_IMPL(ns, sparse, key, m)

namespace myops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class... Args>
[[noreturn]] void fail(const Args&... args) {
  std::ostringstream message;
  (message << ... << args);
  throw std::runtime_error(message.str());
}

#define MYOPS_CHECK(condition, ...)          \
  do {                                       \
    if (__builtin_expect(!(condition), 0)) { \
      ::myops::fail(__VA_ARGS__);            \
    }                                        \
  } while (0)

inline std::string dtype_name(ScalarType t) {
  switch (t) {
    case ScalarType::Float: return "float32";
    case ScalarType::Double: return "float64";
    case ScalarType::BFloat16: return "bfloat16";
    case ScalarType::Half: return "float16";
    case ScalarType::ComplexFloat: return "complex64";
    case ScalarType::ComplexDouble: return "complex128";
    case ScalarType::ComplexHalf: return "complex32";
    case ScalarType::Char: return "int8";
    case ScalarType::Byte: return "uint8";
    case ScalarType::Short: return "int16";
    case ScalarType::Int: return "int32";
    case ScalarType::Long: return "int64";
    case ScalarType::Bool: return "bool";
    default: {  // "UInt16", "Float8_e4m3fn"
      std::string name = torch::headeronly::toString(t);
      for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
      return name;
    }
  }
}

inline DType dtype_of(ScalarType t, const char* op, const char* name) {
  switch (t) {
    case ScalarType::Float: return DType::f32;
    case ScalarType::Double: return DType::f64;
    case ScalarType::BFloat16: return DType::bf16;
    case ScalarType::Half: return DType::f16;
    case ScalarType::ComplexFloat: return DType::c64;
    case ScalarType::ComplexDouble: return DType::c128;
    case ScalarType::Char: return DType::i8;
    case ScalarType::Byte: return DType::u8;
    case ScalarType::Short: return DType::i16;
    case ScalarType::Int: return DType::i32;
    case ScalarType::Long: return DType::i64;
    case ScalarType::Bool: return DType::boolean;
    default: fail("myops.", op, " is not implemented for ", name, " of dtype ", dtype_name(t));
  }
}

inline ScalarType scalar_type_of(DType t) {
  switch (t) {
    case DType::f32: return ScalarType::Float;
    case DType::f64: return ScalarType::Double;
    case DType::bf16: return ScalarType::BFloat16;
    case DType::f16: return ScalarType::Half;
    case DType::c64: return ScalarType::ComplexFloat;
    case DType::c128: return ScalarType::ComplexDouble;
    case DType::i8: return ScalarType::Char;
    case DType::u8: return ScalarType::Byte;
    case DType::i16: return ScalarType::Short;
    case DType::i32: return ScalarType::Int;
    case DType::i64: return ScalarType::Long;
    default: return ScalarType::Bool;
  }
}

inline std::string shape_text(const int64_t* sizes, int dims) {
  std::ostringstream text;
  text << '[';
  for (int i = 0; i < dims; ++i) text << (i ? ", " : "") << sizes[i];
  text << ']';
  return text.str();
}

inline std::string device_text(const Tensor& t) {
  if (t.is_cpu()) return "cpu";
  return (t.is_cuda() ? "cuda:" : "device ") + std::to_string(t.get_device_index());
}

inline void check_same_device(const Tensor& t, const char* name, const Tensor& reference, const char* reference_name) {
  const bool same = t.is_cpu() == reference.is_cpu() && t.is_cuda() == reference.is_cuda() &&
                    (t.is_cpu() || t.get_device_index() == reference.get_device_index());
  MYOPS_CHECK(same, "Expected all tensors to be on the same device, but ", name, " is on ", device_text(t), " and ",
              reference_name, " is on ", device_text(reference));
}

inline void check_matrix(const Tensor& t, const char* name) {
  MYOPS_CHECK(t.dim() == 2, name, " must be a matrix, got ", t.dim(), "-D tensor");
}

// Operands and results live in arrays of kMaxTensorDims; to be called before a tensor's dimensions index any.
inline void check_dims(const Tensor& t, const char* op, const char* name) {
  MYOPS_CHECK(t.dim() <= kMaxTensorDims, "myops.", op, " takes tensors of at most ", kMaxTensorDims,
              " dimensions, but ", name, " has ", t.dim());
}

// The result of an operator of aten whose arguments are all given.
template <class T, class... Args>
T call_aten(const char* name, const Args&... args) {
  StableIValue stack[] = {torch::stable::detail::from(args)...};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, "", stack, TORCH_ABI_VERSION));
  return torch::stable::detail::to<T>(stack[0]);
}

// The conjugate bit has no stable accessor, and below the Autograd keys aten::is_conj is answered for a resolved copy.
// What tells it everywhere: resolving a view of one element gives new memory only where there is a bit to resolve.
inline bool is_conj(const Tensor& t) {
  if (t.numel() == 0) return false;
  int64_t ones[kMaxTensorDims];  // the shim takes as many sizes and strides as t has dimensions
  for (int64_t i = 0; i < t.dim(); ++i) ones[i] = 1;
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_as_strided(t.get(), ones, ones, &handle));
  const Tensor element(handle);
  return call_aten<Tensor>("aten::resolve_conj", element).data_ptr() != element.data_ptr();
}

inline Operand operand_of(const Tensor& t, const char* op, const char* name) {
  Operand v;
  v.type = dtype_of(t.scalar_type(), op, name);
  check_dims(t, op, name);
  v.conj = is_complex(v.type) && is_conj(t);
  v.dims = static_cast<int>(t.dim());
  const int64_t* sizes = t.sizes().data();
  const int64_t* strides = t.strides().data();
  for (int i = 0; i < v.dims; ++i) v.size[i] = sizes[i], v.stride[i] = strides[i];
  v.data = const_cast<void*>(t.const_data_ptr());
  return v;
}

inline Tensor empty_strided(const int64_t* sizes, const int64_t* strides, int dims, ScalarType type,
                            const Tensor& like) {
  int32_t device_type;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  AtenTensorHandle handle;
  const int32_t dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
  MYOPS_CHECK(aoti_torch_empty_strided(dims, sizes, strides, dtype, device_type, like.get_device_index(), &handle) == 0,
              "not enough memory for a tensor of shape ", shape_text(sizes, dims), " and dtype ", dtype_name(type));
  return Tensor(handle);
}

inline Tensor empty(const int64_t* sizes, int dims, ScalarType type, const Tensor& like) {
  int64_t strides[kMaxTensorDims];
  for (int i = dims - 1; i >= 0; --i)
    strides[i] = i == dims - 1 ? 1 : strides[i + 1] * (sizes[i + 1] > 1 ? sizes[i + 1] : 1);
  return empty_strided(sizes, strides, dims, type, like);
}

// A result must be a strided tensor of the given dtype, shape and device, and not an expanded one.
inline void check_out(const Tensor& out, const int64_t* sizes, int dims, ScalarType type, const Tensor& like,
                      const char* like_name, const char* name = "out") {
  check_same_device(out, name, like, like_name);
  MYOPS_CHECK(out.scalar_type() == type, "Expected ", name, " tensor to have dtype ", dtype_name(type), ", but got ",
              dtype_name(out.scalar_type()), " instead");
  bool same = out.dim() == dims;
  for (int i = 0; same && i < dims; ++i) same = out.size(i) == sizes[i];
  MYOPS_CHECK(same, "Expected ", name, " to have shape ", shape_text(sizes, dims), ", but got ",
              shape_text(out.sizes().data(), static_cast<int>(out.dim())));
  const bool empty = out.numel() == 0;
  for (int i = 0; i < dims; ++i)
    MYOPS_CHECK(empty || sizes[i] <= 1 || out.stride(i) != 0, "unsupported operation: ", name,
                " is an expanded tensor, more than one of its elements refers to a single memory location. Please "
                "clone() it before the call");
}

// A result whose memory other tensors share until one of them is written (copy on write) gets its own. To be called
// after the checks and before operand_of, of the result as of what may be a view of it.
inline void own_memory(const Tensor& out) { out.mutable_data_ptr(); }

// alpha and beta cross the boundary as double, which carries every integer up to 2^53. As in torch, a finite scalar has
// to fit the dtype (16-bit floats are computed with in float32), and an unsigned dtype takes the negatives of what
// fits.
inline void check_scalar(double value, const char* name, DType type) {
  MYOPS_CHECK(!is_integral(type) || (std::isfinite(value) && value == std::trunc(value)),
              "For integral tensors, argument ", name, " must not be a floating point number, but got ", value);
  double limit = std::numeric_limits<double>::max();
  switch (type) {
    case DType::f64:
    case DType::c128: return;
    case DType::i64: limit = 0x1p63; break;
    case DType::boolean: limit = 1; break;
    case DType::i8: limit = 127 + (value < 0); break;
    case DType::u8: limit = 255; break;
    case DType::i16: limit = 32767 + (value < 0); break;
    case DType::i32: limit = 2147483647.0 + (value < 0); break;
    default: limit = std::numeric_limits<float>::max();
  }
  MYOPS_CHECK(!(std::fabs(value) > limit) || std::isinf(value), name, " = ", value, " cannot be converted to ",
              dtype_name(scalar_type_of(type)), " without overflow");
  MYOPS_CHECK(
      !is_integral(type) || std::fabs(value) <= 0x1p53, name, " = ", value,
      " is beyond 2^53, where this overload cannot carry integers exactly; call myops.* or the .Scalar overload");
}

}  // namespace myops
