// matmul: 1-D to N-D products with broadcast batches, walked by stride 0 and never materialised. Checks and entry.
#pragma once
#include "gemm_entry.h"

namespace myops {

inline std::vector<int64_t> matmul_shape(const Tensor& a, const Tensor& b) {
  const int64_t da = a.dim(), db = b.dim();
  MYOPS_CHECK(da > 0 && db > 0, "both arguments to matmul need to be at least 1D, but input is ", da, "D and other is ",
              db, "D");
  const int64_t ka = a.size(da - 1), kb = b.size(db == 1 ? 0 : db - 2);
  MYOPS_CHECK(ka == kb, "input and other shapes cannot be multiplied (", shape_text(a.sizes().data(), da), " and ",
              shape_text(b.sizes().data(), db), ")");
  const int64_t batch_a = da > 2 ? da - 2 : 0, batch_b = db > 2 ? db - 2 : 0;
  const int64_t batch = batch_a > batch_b ? batch_a : batch_b;
  std::vector<int64_t> sizes(batch);
  for (int64_t i = 0; i < batch; ++i) {
    const int64_t ia = i - (batch - batch_a), ib = i - (batch - batch_b);
    const int64_t sa = ia < 0 ? 1 : a.size(ia), sb = ib < 0 ? 1 : b.size(ib);
    MYOPS_CHECK(sa == sb || sa == 1 || sb == 1, "The size of input (", sa, ") must match the size of other (", sb,
                ") at batch dimension ", i, ": ", shape_text(a.sizes().data(), da), " and ",
                shape_text(b.sizes().data(), db));
    sizes[i] = sa == 1 ? sb : sa;
  }
  if (da > 1) sizes.push_back(a.size(da - 2));
  if (db > 1) sizes.push_back(b.size(db - 1));
  return sizes;
}

template <class Backend>
Tensor matmul(const Tensor& input, const Tensor& other) {
  GemmCall call{"matmul", input, "input", other, "other"};
  return run_gemm<Backend>(call, matmul_shape(input, other), input.dim() == 1, other.dim() == 1);
}

template <class Backend>
void matmul_out(const Tensor& input, const Tensor& other, const Tensor& out) {
  GemmCall call{"matmul", input, "input", other, "other"};
  call.out = &out;
  run_gemm<Backend>(call, matmul_shape(input, other), input.dim() == 1, other.dim() == 1);
}

template <class Backend>
void register_matmul(torch::stable::detail::StableLibrary& m) {
  m.impl("matmul", TORCH_BOX(&matmul<Backend>));
  m.impl("matmul.out", TORCH_BOX(&matmul_out<Backend>));
}

}  // namespace myops
