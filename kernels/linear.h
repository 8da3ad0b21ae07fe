// linear: activation(input @ weight.T + bias) over the last dimension of input; the bias is read by the kernel, never
// expanded.
#pragma once
#include "gemm_entry.h"

namespace myops {

// out_features: -1 where weight is a vector.
inline void check_bias(const std::optional<Tensor>& bias, int64_t out_features) {
  if (!bias) return;
  const bool fits =
      out_features < 0 ? bias->dim() == 0 : bias->dim() <= 1 && (bias->numel() == 1 || bias->numel() == out_features);
  MYOPS_CHECK(fits, "bias must have shape ", out_features < 0 ? "[]" : "[" + std::to_string(out_features) + "]",
              ", but got ", shape_text(bias->sizes().data(), static_cast<int>(bias->dim())));
}

inline std::vector<int64_t> linear_shape(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias) {
  const int64_t dims = input.dim(), weight_dims = weight.dim();
  MYOPS_CHECK(dims >= 1, "input must have at least one dimension, got a 0-D tensor");
  MYOPS_CHECK(weight_dims == 1 || weight_dims == 2, "weight must be a matrix or a vector, got ", weight_dims,
              "-D tensor");
  const int64_t in_features = weight.size(weight_dims - 1);
  MYOPS_CHECK(input.size(dims - 1) == in_features, "input and weight shapes cannot be multiplied (",
              shape_text(input.sizes().data(), dims), " and ", shape_text(weight.sizes().data(), weight_dims),
              " transposed)");
  std::vector<int64_t> sizes(input.sizes().data(), input.sizes().data() + dims - 1);
  if (weight_dims == 2) sizes.push_back(weight.size(0));
  check_bias(bias, weight_dims == 2 ? weight.size(0) : -1);
  return sizes;
}

template <class Backend>
Tensor run_linear(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, int64_t activation,
                  const Tensor* out, std::optional<Tensor>* preactivation = nullptr) {
  GemmCall call{"linear", input, "input", weight, "weight"};
  if (bias) {
    call.c = &*bias;
    call.c_name = "bias";
    call.beta = 1;
  }
  call.activation = activation;
  call.out = out;
  call.preactivation = preactivation;
  const bool vector = weight.dim() == 1;
  return run_gemm<Backend>(call, linear_shape(input, weight, bias), input.dim() == 1, vector, !vector);
}

template <class Backend>
Tensor linear(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, int64_t activation) {
  return run_linear<Backend>(input, weight, bias, activation, nullptr);
}

template <class Backend>
void linear_out(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, int64_t activation,
                const Tensor& out) {
  run_linear<Backend>(input, weight, bias, activation, &out);
}

template <class Backend>
std::tuple<Tensor, Tensor> linear_with_preactivation(const Tensor& input, const Tensor& weight,
                                                     const std::optional<Tensor>& bias, int64_t activation) {
  std::optional<Tensor> preactivation;
  const Tensor result = run_linear<Backend>(input, weight, bias, activation, nullptr, &preactivation);
  return {result, *preactivation};
}

template <class Backend>
void register_linear(torch::stable::detail::StableLibrary& m) {
  m.impl("linear", TORCH_BOX(&linear<Backend>));
  m.impl("linear.out", TORCH_BOX(&linear_out<Backend>));
  m.impl("linear_with_preactivation", TORCH_BOX(&linear_with_preactivation<Backend>));
}

}  // namespace myops
