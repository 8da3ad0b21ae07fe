// The five forms that a pair of operators shares: a plain product (mm, bmm) and one that adds beta * input and has an
// activation (addmm, baddbmm).
//
// Rule is the family: the names of its operators and operands, and the shape of its result (addmm.h, bmm.h).
#pragma once
#include "gemm_entry.h"

namespace myops {

template <class Rule, class Backend>
struct Product {
  using OutDtype = std::optional<ScalarType>;

  static Tensor run(const GemmCall& call) {
    return run_gemm<Backend>(call, Rule::shape(call.a, call.a_name, call.b, call.b_name));
  }

  static GemmCall plain(const Tensor& input, const Tensor& mat2, OutDtype out_dtype, const Tensor* out) {
    GemmCall call{Rule::kPlain, input, "input", mat2, "mat2"};
    call.out_dtype = out_dtype;
    call.out = out;
    return call;
  }
  static Tensor mm(const Tensor& input, const Tensor& mat2, OutDtype out_dtype) {
    return run(plain(input, mat2, out_dtype, nullptr));
  }
  static void mm_out(const Tensor& input, const Tensor& mat2, OutDtype out_dtype, const Tensor& out) {
    run(plain(input, mat2, out_dtype, &out));
  }

  static GemmCall added(const Tensor& input, const Tensor& first, const Tensor& second, OutDtype out_dtype, double beta,
                        double alpha, int64_t activation, const Tensor* out) {
    GemmCall call{Rule::kAdded, first, Rule::kFirst, second, Rule::kSecond};
    call.c = &input;
    call.beta = beta;
    call.alpha = alpha;
    call.activation = activation;
    call.out_dtype = out_dtype;
    call.out = out;
    return call;
  }
  static Tensor addmm(const Tensor& input, const Tensor& first, const Tensor& second, OutDtype out_dtype, double beta,
                      double alpha, int64_t activation) {
    return run(added(input, first, second, out_dtype, beta, alpha, activation, nullptr));
  }
  static std::tuple<Tensor, Tensor> addmm_with_preactivation(const Tensor& input, const Tensor& first,
                                                             const Tensor& second, OutDtype out_dtype, double beta,
                                                             double alpha, int64_t activation) {
    GemmCall call = added(input, first, second, out_dtype, beta, alpha, activation, nullptr);
    std::optional<Tensor> preactivation;
    call.preactivation = &preactivation;
    const Tensor result = run(call);
    return {result, *preactivation};
  }
  static void addmm_out(const Tensor& input, const Tensor& first, const Tensor& second, OutDtype out_dtype, double beta,
                        double alpha, int64_t activation, const Tensor& out) {
    run(added(input, first, second, out_dtype, beta, alpha, activation, &out));
  }
  static void addmm_(const Tensor& input, const Tensor& first, const Tensor& second, double beta, double alpha,
                     int64_t activation) {
    GemmCall call = added(input, first, second, std::nullopt, beta, alpha, activation, &input);
    call.out_name = "input";
    run(call);
  }

  static void implement(torch::stable::detail::StableLibrary& m) {
    const std::string plain_name = Rule::kPlain, added_name = Rule::kAdded;
    m.impl(plain_name.c_str(), TORCH_BOX(&Product::mm));
    m.impl((plain_name + ".out").c_str(), TORCH_BOX(&Product::mm_out));
    m.impl(added_name.c_str(), TORCH_BOX(&Product::addmm));
    m.impl((added_name + ".out").c_str(), TORCH_BOX(&Product::addmm_out));
    m.impl((added_name + "_").c_str(), TORCH_BOX(&Product::addmm_));
    m.impl((added_name + "_with_preactivation").c_str(), TORCH_BOX(&Product::addmm_with_preactivation));
  }
};

}  // namespace myops
