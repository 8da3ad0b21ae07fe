// Builds the engine's Gemm from N-dimensional operands: broadcasting batches by stride 0, merging what merges.
//
// Pure C++; never copies an element. Not here: checks with messages (gemm_entry.h, torch_bridge.h) and kernels (cpu/,
// cuda/).
//
//   1. right-align the batch dimensions; a size-1 or missing one gets stride 0
//   2. drop size-1 dimensions; merge neighbours whose strides nest in all four operands
//   3. while B is the same for a whole batch dimension and A, C, D continue their rows through it, fold it into M:
//      (b, M, K) @ (K, N) becomes (b*M, K) @ (K, N)
#pragma once
#include "matrix_view.h"

namespace myops {

constexpr int kMaxTensorDims = 64;

// A strided N-d array; the last two dimensions are the matrix.
struct Operand {
  void* data = nullptr;
  DType type = DType::f32;
  bool conj = false;
  int dims = 0;
  int64_t size[kMaxTensorDims], stride[kMaxTensorDims];

  void insert_dim(int at) {  // a size-1 dimension
    for (int i = dims; i > at; --i) size[i] = size[i - 1], stride[i] = stride[i - 1];
    size[at] = 1, stride[at] = 0;
    ++dims;
  }
  int64_t numel() const {
    int64_t n = 1;
    for (int i = 0; i < dims; ++i) n *= size[i];
    return n;
  }
  // Half-open range of bytes that the elements lie in.
  void extent(const char** begin, const char** end) const {
    int64_t last = 0;
    for (int i = 0; i < dims; ++i) {
      if (size[i] == 0) {
        *begin = *end = static_cast<const char*>(data);
        return;
      }
      last += (size[i] - 1) * stride[i];
    }
    *begin = static_cast<const char*>(data);
    *end = *begin + (last + 1) * element_size(type);
  }
  bool overlaps(const Operand& other) const {
    const char *b0, *e0, *b1, *e1;
    extent(&b0, &e0);
    other.extent(&b1, &e1);
    return b0 < e1 && b1 < e0;
  }
  bool same_view(const Operand& other) const {
    if (data != other.data || dims != other.dims || type != other.type) return false;
    for (int i = 0; i < dims; ++i)
      if (size[i] != other.size[i] || (size[i] > 1 && stride[i] != other.stride[i])) return false;
    return true;
  }
};

struct GemmOperands {
  Operand a, b, d;
  Operand c;  // c.data == nullptr: absent
  double alpha = 1, beta = 1;
  Activation activation = Activation::none;
  void* preactivation = nullptr;  // laid out as d
  bool batch_invariant = false, b_panels = false;
};

namespace detail {

struct BatchDim {
  int64_t size, stride[4];
};

// Stride of dimension `from_right` counted from the last, 0 where the operand broadcasts.
inline int64_t broadcast_stride(const Operand& v, int from_right) {
  const int i = v.dims - 1 - from_right;
  return i < 0 || v.size[i] == 1 ? 0 : v.stride[i];
}

}  // namespace detail

// Calls run(Gemm) once, or once per item of the outer batch dimensions where more than kMaxBatchDims remain.
// Requires: shapes already checked, d not empty, d non-overlapping with a and b.
template <class Run>
void for_each_gemm(const GemmOperands& p, const Run& run) {
  using detail::BatchDim;
  const Operand* operand[4] = {&p.a, &p.b, &p.c, &p.d};
  Gemm g;
  MatrixView* view[4] = {&g.A, &g.B, &g.C, &g.D};
  for (int o = 0; o < 4; ++o) {
    view[o]->data = operand[o]->data;
    view[o]->conj = operand[o]->conj;
    if (operand[o]->data == nullptr) continue;
    view[o]->row_stride = detail::broadcast_stride(*operand[o], 1);
    view[o]->col_stride = detail::broadcast_stride(*operand[o], 0);
  }
  g.M = p.d.size[p.d.dims - 2];
  g.N = p.d.size[p.d.dims - 1];
  g.K = p.alpha == 0 ? 0 : p.a.size[p.a.dims - 1];
  // alpha = inf or nan does not meet the empty sum, which times -0.0 leaves even a zero of beta * C its sign.
  g.alpha = g.K > 0 ? p.alpha : p.c.data == nullptr ? 1 : -0.0;
  g.beta = p.beta;
  g.activation = p.activation;
  g.batch_invariant = p.batch_invariant;
  g.b_panels = p.b_panels;
  g.in = p.a.type;
  g.out = p.d.type;
  g.c_type = p.c.data == nullptr ? p.d.type : p.c.type;

  BatchDim dims[kMaxTensorDims];
  int n = 0;
  for (int i = 0; i < p.d.dims - 2; ++i) {
    BatchDim dim;
    dim.size = p.d.size[i];
    if (dim.size == 1) continue;
    for (int o = 0; o < 4; ++o)
      dim.stride[o] = operand[o]->data == nullptr ? 0 : detail::broadcast_stride(*operand[o], p.d.dims - 1 - i);
    if (n > 0) {
      BatchDim& outer = dims[n - 1];
      bool nests = true;
      for (int o = 0; o < 4; ++o) nests &= outer.stride[o] == dim.stride[o] * dim.size;
      if (nests) {
        dim.size *= outer.size;
        outer = dim;
        continue;
      }
    }
    dims[n++] = dim;
  }
  while (n > 0 && dims[n - 1].stride[1] == 0) {
    const BatchDim& inner = dims[n - 1];
    bool folds = true;
    for (int o : {0, 2, 3})
      folds &= view[o]->data == nullptr || g.M == 1 || inner.stride[o] == view[o]->row_stride * g.M;
    if (!folds) break;
    if (g.M == 1)
      for (int o : {0, 2, 3}) view[o]->row_stride = inner.stride[o];
    g.M *= inner.size;
    --n;
  }

  const int outer = n > kMaxBatchDims ? n - kMaxBatchDims : 0;
  g.batch_dims = n - outer;
  for (int i = 0; i < g.batch_dims; ++i) {
    g.batch_size[i] = dims[outer + i].size;
    for (int o = 0; o < 4; ++o) view[o]->batch_stride[i] = dims[outer + i].stride[o];
  }
  int64_t items = 1;
  for (int i = 0; i < outer; ++i) items *= dims[i].size;
  for (int64_t item = 0; item < items; ++item) {
    int64_t rest = item, offset[4] = {};
    for (int i = outer - 1; i >= 0; --i) {
      for (int o = 0; o < 4; ++o) offset[o] += (rest % dims[i].size) * dims[i].stride[o];
      rest /= dims[i].size;
    }
    for (int o = 0; o < 4; ++o)
      if (operand[o]->data != nullptr)
        view[o]->data = static_cast<char*>(operand[o]->data) + offset[o] * element_size(operand[o]->type);
    if (p.preactivation != nullptr)
      g.preactivation = static_cast<char*>(p.preactivation) + offset[3] * element_size(p.d.type);
    run(static_cast<const Gemm&>(g));
  }
}

}  // namespace myops
