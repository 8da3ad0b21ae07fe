// What an engine sees of the world: pointers, sizes, strides, dtypes. Plain C++17, shared by CPU and CUDA.
//
// Not here: tensors, errors, allocation (torch_bridge.h), and how a product is computed (cpu/, cuda/).
//
//   Gemm      D[b] = f(alpha * A[b] @ B[b] + beta * C[b])   for every batch item b, f the activation
//             A is M x K, B is K x N, C and D are M x N.
//   Add       D = X + alpha * Y, element by element.
//
// Rules every engine keeps. Each is a test in tests/test_semantics.py.
//   * Strides count elements, may be any int64, 0 included; a size-1 dimension has a meaningless stride.
//   * C.data == nullptr means that C is never read (the caller passes that for beta == 0).
//   * K == 0 means that A and B are never read (the caller passes that for alpha == 0): D = beta * C.
//   * D overlaps neither A nor B. C is D itself (same pointer, same strides) or does not overlap it.
//   * 16-bit floats accumulate in float32 and round once. Integers are modular, in at least their own width.
#pragma once
#include <cstdint>

// Functions that kernels call too.
#if defined(__CUDACC__) || defined(MYOPS_CUDA_EMULATION)
#define MYOPS_HOST_DEVICE __host__ __device__
#else
#define MYOPS_HOST_DEVICE
#endif

namespace myops {

enum class DType : int8_t { f32, f64, bf16, f16, c64, c128, i8, u8, i16, i32, i64, boolean };

constexpr int element_size(DType t) {
  switch (t) {
    case DType::f64:
    case DType::c64:
    case DType::i64: return 8;
    case DType::c128: return 16;
    case DType::f32:
    case DType::i32: return 4;
    case DType::bf16:
    case DType::f16:
    case DType::i16: return 2;
    default: return 1;
  }
}
constexpr bool is_complex(DType t) { return t == DType::c64 || t == DType::c128; }
constexpr bool is_floating(DType t) {
  return t == DType::f32 || t == DType::f64 || t == DType::bf16 || t == DType::f16;
}
constexpr bool is_integral(DType t) { return !is_complex(t) && !is_floating(t); }

// Batch dimensions that a kernel walks. More than these, after merging, are walked by the caller.
constexpr int kMaxBatchDims = 4;

// Element (i, j) of item (b0, b1, ...): data[sum(b * batch_stride) + i * row_stride + j * col_stride].
struct MatrixView {
  void* data = nullptr;
  int64_t row_stride = 0, col_stride = 0;
  int64_t batch_stride[kMaxBatchDims] = {};
  bool conj = false;  // the elements are the conjugates of what is stored (complex dtypes only)
};

// What a product's epilogue applies to each element. The order is that of ACTIVATIONS in myops/activation.py, whose
// indices are what the operators take. Complex dtypes have none, integers none and relu.
enum class Activation : int8_t { none, relu, gelu, gelu_tanh, silu };

struct Gemm {
  int64_t M = 0, N = 0, K = 0;
  int batch_dims = 0;
  int64_t batch_size[kMaxBatchDims] = {};
  MatrixView A, B, C, D;
  DType in = DType::f32;      // of A and B
  DType c_type = DType::f32;  // of C: `in` or `out`
  DType out = DType::f32;     // of D: `in`, f32 for 16-bit floats, i32 for i8 and u8
  double alpha = 1, beta = 1;
  Activation activation = Activation::none;
  void* preactivation = nullptr;  // where what f is applied to goes too, laid out as D and of its dtype
  // The bits of a result depend on its row of A, its column of B, its element of C, K and the dtypes; not on M, N, the
  // batch or strides. Engines that are like this anyway ignore it.
  bool batch_invariant = false;
  // float32 operands may be rounded to TF32, which has 10 bits of mantissa, for tensor cores to take. CUDA only.
  bool tf32 = false;
  // B.data is a packed weight (cpu/gemm/panels.h) and has no strides. CPU only; one weight for the whole batch.
  bool b_panels = false;

  MYOPS_HOST_DEVICE int64_t batch() const {
    int64_t n = 1;
    for (int i = 0; i < batch_dims; ++i) n *= batch_size[i];
    return n;
  }
};

// Splits a flat batch index into the offset of one operand, in elements. The last batch dimension is the innermost.
MYOPS_HOST_DEVICE inline int64_t batch_offset(const Gemm& g, const MatrixView& v, int64_t item) {
  int64_t offset = 0;
#ifdef __CUDA_ARCH__
#pragma unroll 1  // a division takes a hundred instructions
#endif
  for (int i = g.batch_dims - 1; i > 0; --i) {
    const int64_t rest = item / g.batch_size[i];
    offset += (item - rest * g.batch_size[i]) * v.batch_stride[i];
    item = rest;
  }
  return g.batch_dims == 0 ? 0 : offset + item * v.batch_stride[0];  // no division where there is one batch dimension
}

// Elementwise problems keep every dimension; the caller merges what merges.
constexpr int kMaxDims = 12;

struct Add {
  int dims = 0;
  int64_t size[kMaxDims] = {};
  int64_t x_stride[kMaxDims] = {}, y_stride[kMaxDims] = {}, d_stride[kMaxDims] = {};
  const void *x = nullptr, *y = nullptr;  // nullptr: one element, kept in x_value, y_value (a host scalar)
  void* d = nullptr;
  alignas(16) unsigned char x_value[16] = {}, y_value[16] = {};
  DType x_type = DType::f32, y_type = DType::f32, d_type = DType::f32;
  double alpha = 1;  // |alpha| <= 2^53 where d_type is integral

  int64_t numel() const {
    int64_t n = 1;
    for (int i = 0; i < dims; ++i) n *= size[i];
    return n;
  }
};

}  // namespace myops
