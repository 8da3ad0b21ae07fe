// mm and addmm: beta * input + alpha * (mat1 @ mat2) of matrices.
#pragma once
#include "product.h"

namespace myops {

struct MatrixRule {
  static constexpr const char *kPlain = "mm", *kAdded = "addmm", *kFirst = "mat1", *kSecond = "mat2";

  static std::vector<int64_t> shape(const Tensor& a, const char* a_name, const Tensor& b, const char* b_name) {
    check_matrix(a, a_name);
    check_matrix(b, b_name);
    MYOPS_CHECK(a.size(1) == b.size(0), a_name, " and ", b_name, " shapes cannot be multiplied (", a.size(0), "x",
                a.size(1), " and ", b.size(0), "x", b.size(1), ")");
    return {a.size(0), b.size(1)};
  }
};

template <class Backend>
void register_addmm(torch::stable::detail::StableLibrary& m) {
  Product<MatrixRule, Backend>::implement(m);
}

}  // namespace myops
