// add: input + alpha * other with broadcasting and torch's type promotion. Checks and entry, for every backend.
//
// A 0-dimensional CPU tensor may be added to a tensor of any device: it is read here and travels by value.
#pragma once
#include <vector>

#include "torch_bridge.h"

namespace myops {

// torch's promotion: the higher category wins (bool < integer < float < complex); within one category a tensor with
// dimensions wins over one without.
inline int dtype_category(DType t) { return t == DType::boolean ? 0 : is_integral(t) ? 1 : is_floating(t) ? 2 : 3; }

inline DType promote_types(DType a, DType b) {
  if (a == b) return a;
  if (dtype_category(a) > dtype_category(b)) std::swap(a, b);  // b has the higher category
  const bool wide = a == DType::f64 || b == DType::f64;
  switch (dtype_category(b)) {
    case 3: return wide || a == DType::c128 || b == DType::c128 ? DType::c128 : DType::c64;
    case 2:
      if (dtype_category(a) < 2) return b;
      return wide ? DType::f64 : DType::f32;  // two different floats: float16 with bfloat16 is float32 too
    default: break;
  }
  if (a == DType::boolean) return b;
  // Of two different integers the wider wins; uint8 with int8 needs int16.
  if (element_size(a) == element_size(b)) return DType::i16;
  return element_size(a) > element_size(b) ? a : b;
}

inline DType result_type(const Operand& x, const Operand& y) {
  if ((x.dims == 0) != (y.dims == 0)) {
    const DType dimensioned = x.dims == 0 ? y.type : x.type, zero = x.dims == 0 ? x.type : y.type;
    if (dtype_category(dimensioned) >= dtype_category(zero)) return dimensioned;
    if (is_floating(dimensioned)) {  // meets a 0-dim complex: the complex type of its own width
      MYOPS_CHECK(dimensioned != DType::f16, "myops.add is not implemented for a result of dtype complex32");
      return dimensioned == DType::f64 ? DType::c128 : DType::c64;
    }
  }
  return promote_types(x.type, y.type);
}

// The layout of the result follows the operands, as in torch: dimensions are sorted by their strides, the operands
// voting in order, so that the sum of two transposed tensors is transposed and runs at full speed.
inline void result_strides(const Operand& x, const Operand& y, const int64_t* sizes, int dims, int64_t* strides) {
  const Operand* voters[2] = {&x, &y};
  const auto stride_of = [&](const Operand& v, int i) {
    const int at = i - (dims - v.dims);
    return at < 0 || (v.size[at] == 1 && sizes[i] != 1) ? 0 : v.stride[at];
  };
  const auto should_swap = [&](int a, int b) {
    for (const Operand* v : voters) {
      const int64_t sa = stride_of(*v, a), sb = stride_of(*v, b);
      if (v->dims == 0 || sa == 0 || sb == 0) continue;
      if (sa == sb) {
        if (sizes[b] >= sizes[a]) continue;
        return 1;
      }
      return sb > sa ? -1 : 1;
    }
    return 0;
  };
  const auto contiguous = [&](const Operand& v) {
    if (v.dims != dims) return v.dims == 0;
    int64_t step = 1;
    for (int i = dims - 1; i >= 0; --i) {
      if (v.size[i] != sizes[i] || (sizes[i] != 1 && v.stride[i] != step)) return false;
      step *= sizes[i];
    }
    return true;
  };
  // Strides of size-1 dimensions mean nothing where both are contiguous, and have no vote.
  const bool in_order = contiguous(x) && contiguous(y);
  int order[kMaxTensorDims];  // from the fastest dimension to the slowest
  for (int i = 0; i < dims; ++i) order[i] = dims - 1 - i;
  for (int i = 1; i < dims && !in_order; ++i) {
    int at = i;
    for (int before = i - 1; before >= 0; --before) {
      const int verdict = should_swap(order[before], order[at]);
      if (verdict < 0) break;
      if (verdict > 0) {
        std::swap(order[before], order[at]);
        at = before;
      }
    }
  }
  int64_t step = 1;
  for (int i = 0; i < dims; ++i) {
    strides[order[i]] = step;
    step *= sizes[order[i]] > 1 ? sizes[order[i]] : 1;
  }
}

template <class Backend>
Tensor run_add(const Tensor& input, const Tensor& other, double alpha, const Tensor* given_out,
               const char* out_name = "out") {
  const bool input_by_value = input.dim() == 0 && input.is_cpu() && !other.is_cpu();
  const bool other_by_value = other.dim() == 0 && other.is_cpu() && !input.is_cpu();
  const Tensor& like = input_by_value ? other : input;
  if (!input_by_value && !other_by_value) check_same_device(other, "other", input, "input");
  Operand x = operand_of(input, "add", "input"), y = operand_of(other, "add", "other");
  MYOPS_CHECK(!x.conj && !y.conj, "conjugate views must be resolved before add");
  const DType type = result_type(x, y);
  // Of bool, alpha is true or false, and so is the sum: x or (alpha and y). false leaves x, which is x or x.
  const bool x_alone = type == DType::boolean && alpha == 0;
  if (type == DType::boolean && std::isfinite(alpha) && alpha == std::trunc(alpha)) alpha = 1;
  check_scalar(alpha, "alpha", type);

  const int dims = x.dims > y.dims ? x.dims : y.dims;
  std::vector<int64_t> sizes(dims);
  for (int i = 0; i < dims; ++i) {
    const int ix = i - (dims - x.dims), iy = i - (dims - y.dims);
    const int64_t sx = ix < 0 ? 1 : x.size[ix], sy = iy < 0 ? 1 : y.size[iy];
    MYOPS_CHECK(sx == sy || sx == 1 || sy == 1, "The size of input (", sx, ") must match the size of other (", sy,
                ") at dimension ", i, ": ", shape_text(x.size, x.dims), " and ", shape_text(y.size, y.dims));
    sizes[i] = sx == 1 ? sy : sx;
  }
  ScalarType out_type = scalar_type_of(type);
  if (given_out != nullptr) {
    // As in torch, `out` may have any dtype of the result's category or a higher one.
    const DType wanted = dtype_of(given_out->scalar_type(), "add", out_name);
    MYOPS_CHECK(dtype_category(wanted) >= dtype_category(type), "result type ", dtype_name(out_type),
                " can't be cast to the desired output type ", dtype_name(given_out->scalar_type()), " of ", out_name);
    check_out(*given_out, sizes.data(), dims, given_out->scalar_type(), like, input_by_value ? "other" : "input",
              out_name);
    own_memory(*given_out);
    x.data = const_cast<void*>(input.const_data_ptr()), y.data = const_cast<void*>(other.const_data_ptr());
  }
  // The sum is formed in the result type. Where `out` has another dtype, or overlaps an operand it is not, the sum is
  // formed beside it and copied.
  const bool same_type = given_out != nullptr && given_out->scalar_type() == out_type;
  bool direct = same_type;
  if (same_type) {
    const Operand d = operand_of(*given_out, "add", out_name);
    direct = (d.same_view(x) || !d.overlaps(x)) && (d.same_view(y) || !d.overlaps(y));
  }
  int64_t strides[kMaxTensorDims];
  result_strides(x, y, sizes.data(), dims, strides);
  Tensor out = direct ? *given_out : empty_strided(sizes.data(), strides, dims, out_type, like);
  const Operand d = operand_of(out, "add", out_name);

  Add p;
  p.alpha = alpha;
  p.x_type = x.type, p.y_type = y.type, p.d_type = d.type;
  p.x = x.data, p.y = y.data, p.d = d.data;
  if (input_by_value) std::memcpy(p.x_value, x.data, element_size(x.type)), p.x = nullptr;
  if (other_by_value) std::memcpy(p.y_value, y.data, element_size(y.type)), p.y = nullptr;
  if (x_alone) std::memcpy(p.y_value, p.x_value, sizeof p.x_value), p.y = p.x;
  // Walk D from its slowest dimension to its fastest; drop size-1 dimensions, merge those whose strides nest in all
  // three.
  int walk[kMaxTensorDims];
  for (int i = 0; i < dims; ++i) {
    int at = i;
    for (; at > 0 && d.stride[walk[at - 1]] < d.stride[i]; --at) walk[at] = walk[at - 1];
    walk[at] = i;
  }
  for (int w = 0; w < dims; ++w) {
    const int i = walk[w];
    if (sizes[i] == 1) continue;
    const int ix = i - (dims - x.dims), iy = i - (dims - y.dims);
    const int64_t sx = ix < 0 || x.size[ix] == 1 ? 0 : x.stride[ix];
    const int64_t sy = x_alone ? sx : iy < 0 || y.size[iy] == 1 ? 0 : y.stride[iy];
    const int last = p.dims - 1;
    if (p.dims > 0 && p.x_stride[last] == sx * sizes[i] && p.y_stride[last] == sy * sizes[i] &&
        p.d_stride[last] == d.stride[i] * sizes[i]) {
      p.size[last] *= sizes[i];
      p.x_stride[last] = sx, p.y_stride[last] = sy, p.d_stride[last] = d.stride[i];
      continue;
    }
    MYOPS_CHECK(p.dims < kMaxDims, "myops.add walks at most ", kMaxDims,
                " dimensions that do not merge; input and other have more");
    p.size[p.dims] = sizes[i];
    p.x_stride[p.dims] = sx, p.y_stride[p.dims] = sy, p.d_stride[p.dims] = d.stride[i];
    ++p.dims;
  }
  if (p.numel() > 0) Backend::run(p, like);
  if (given_out != nullptr && !direct) {
    Tensor target = *given_out;
    torch::stable::copy_(target, out);
    return target;
  }
  return out;
}

template <class Backend>
Tensor add(const Tensor& input, const Tensor& other, double alpha) {
  return run_add<Backend>(input, other, alpha, nullptr);
}

template <class Backend>
void add_out(const Tensor& input, const Tensor& other, double alpha, const Tensor& out) {
  run_add<Backend>(input, other, alpha, &out);
}

template <class Backend>
void add_(const Tensor& input, const Tensor& other, double alpha) {
  run_add<Backend>(input, other, alpha, &input, "input");
}

template <class Backend>
void register_add(torch::stable::detail::StableLibrary& m) {
  m.impl("add", TORCH_BOX(&add<Backend>));
  m.impl("add.out", TORCH_BOX(&add_out<Backend>));
  m.impl("add_", TORCH_BOX(&add_<Backend>));
}

}  // namespace myops
