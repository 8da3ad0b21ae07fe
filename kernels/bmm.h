// bmm and baddbmm: beta * input + alpha * (batch1 @ batch2) for each item of a batch.
#pragma once
#include "product.h"

namespace myops {

struct BatchRule {
  static constexpr const char *kPlain = "bmm", *kAdded = "baddbmm", *kFirst = "batch1", *kSecond = "batch2";

  static std::vector<int64_t> shape(const Tensor& a, const char* a_name, const Tensor& b, const char* b_name) {
    MYOPS_CHECK(a.dim() == 3, a_name, " must be a 3D tensor, got ", a.dim(), "-D tensor");
    MYOPS_CHECK(b.dim() == 3, b_name, " must be a 3D tensor, got ", b.dim(), "-D tensor");
    MYOPS_CHECK(b.size(0) == a.size(0) && b.size(1) == a.size(2), "Expected size for first two dimensions of ", b_name,
                " tensor to be: [", a.size(0), ", ", a.size(2), "] but got: [", b.size(0), ", ", b.size(1), "]");
    return {a.size(0), a.size(1), b.size(2)};
  }
};

template <class Backend>
void register_bmm(torch::stable::detail::StableLibrary& m) {
  Product<BatchRule, Backend>::implement(m);
}

}  // namespace myops
