// Packed weights on the CPU: linear with a weight that was brought into panels before (gemm/panels.h), and both ways
// between the two. There is no CUDA kernel: its engine reads a weight where it lies, and panels would only cost memory.
#include <cstring>

#include "../linear.h"
#include "backend.h"
#include "gemm/dispatch.h"
#include "gemm/panels.h"

namespace myops {
namespace {

cpu::PanelFormat header_of(const Tensor& panels, ScalarType dtype, int64_t out_features, int64_t in_features) {
  cpu::PanelFormat f;
  MYOPS_CHECK(panels.is_cpu() && panels.scalar_type() == ScalarType::Byte && panels.dim() == 1 &&
                  panels.is_contiguous() && panels.numel() >= static_cast<int64_t>(sizeof(f)),
              "panels must be a contiguous uint8 vector on the CPU, from myops.pack_weight");
  std::memcpy(&f, panels.const_data_ptr(), sizeof(f));
  MYOPS_CHECK(f.describes(panels.numel()), "panels do not hold a packed weight of this version of myops");
  const DType type = dtype_of(dtype, "linear_packed", "weight");
  MYOPS_CHECK(f.dtype == static_cast<int16_t>(type) && f.n == out_features && f.k == in_features,
              "panels hold a packed weight of shape ", shape_text(&f.n, 2), " and dtype ",
              dtype_name(scalar_type_of(static_cast<DType>(f.dtype))), ", but ", "out_features and in_features are ",
              out_features, " and ", in_features, " and dtype is ", dtype_name(dtype));
  return f;
}

bool fits(const cpu::PanelFormat& f) {
  const cpu::PanelFormat here = cpu::panel_format(static_cast<DType>(f.dtype), f.n, f.k, cpu::engine().traits);
  return std::memcmp(&f, &here, sizeof(f)) == 0;
}

Tensor pack_weight(const Tensor& weight) {
  check_matrix(weight, "weight");
  const DType type = dtype_of(weight.scalar_type(), "pack_weight", "weight");
  MYOPS_CHECK(type != DType::boolean, "myops.pack_weight is not implemented for weight of dtype bool");
  const Operand w = operand_of(weight, "pack_weight", "weight");
  MYOPS_CHECK(!w.conj, "weight must not be a conjugate view; call resolve_conj() on it");
  const cpu::PanelFormat f = cpu::panel_format(type, w.size[0], w.size[1], cpu::engine().traits);
  MYOPS_CHECK(f.has_size(), "not enough memory for the panels of a weight of shape ", shape_text(w.size, 2));
  const int64_t size = f.size();
  Tensor panels = empty(&size, 1, ScalarType::Byte, weight);
  char* data = static_cast<char*>(panels.mutable_data_ptr());
  std::memcpy(data, &f, sizeof(f));
  Gemm g;
  g.M = 1, g.N = f.n, g.K = f.k;
  g.in = g.c_type = g.out = type;
  g.B.data = w.data, g.B.row_stride = w.stride[1], g.B.col_stride = w.stride[0];
  g.D.col_stride = 1;
  g.b_panels = true;
  if (f.n > 0) Cpu::pack(g, data + sizeof(f));
  return panels;
}

Tensor unpack_weight(const Tensor& panels, int64_t out_features, int64_t in_features, ScalarType dtype) {
  header_of(panels, dtype, out_features, in_features);
  const int64_t sizes[2] = {out_features, in_features};
  Tensor weight = empty(sizes, 2, dtype, panels);
  cpu::unpack_weight(panels.const_data_ptr(), weight.mutable_data_ptr());
  return weight;
}

Tensor linear_packed(const Tensor& input, const Tensor& panels, const std::optional<Tensor>& bias, int64_t out_features,
                     ScalarType dtype, int64_t activation) {
  const int64_t dims = input.dim();
  MYOPS_CHECK(dims >= 1, "input must have at least one dimension, got a 0-D tensor");
  MYOPS_CHECK(input.scalar_type() == dtype, "input and weight must have the same dtype, but got ",
              dtype_name(input.scalar_type()), " and ", dtype_name(dtype));
  const int64_t in_features = input.size(dims - 1);
  const cpu::PanelFormat f = header_of(panels, dtype, out_features, in_features);
  MYOPS_CHECK(fits(f), "panels were packed for another instruction set than ", cpu::engine().traits.name,
              ", which is in use; PackedWeight(panels, shape, dtype) repacks them");
  check_bias(bias, out_features);
  GemmCall call{"linear", input, "input", panels, "panels"};
  if (bias) {
    call.c = &*bias;
    call.c_name = "bias";
    call.beta = 1;
  }
  call.activation = activation;
  Operand b;
  b.data = static_cast<char*>(const_cast<void*>(panels.const_data_ptr())) + sizeof(f);
  b.type = static_cast<DType>(f.dtype);
  b.dims = 2;
  b.size[0] = f.k, b.size[1] = f.n;
  b.stride[0] = b.stride[1] = 1;  // of no meaning
  call.panels = &b;
  std::vector<int64_t> sizes(input.sizes().data(), input.sizes().data() + dims - 1);
  sizes.push_back(out_features);
  return run_gemm<Cpu>(call, sizes, dims == 1);
}

}  // namespace
}  // namespace myops

MYOPS_LIBRARY_IMPL(MYOPS_NAMESPACE, CPU, m) {
  m.impl("pack_weight", TORCH_BOX(&myops::pack_weight));
  m.impl("unpack_weight", TORCH_BOX(&myops::unpack_weight));
  m.impl("linear_packed", TORCH_BOX(&myops::linear_packed));
}
