// Torch's own kernels for a product, through its C shims. These do not go through the dispatcher, so a call reaches
// torch's kernels even where myops.override has put this library in their place there.
#pragma once
#include <cstdlib>

#include "route.h"
#include "torch_bridge.h"

namespace myops {

using NativeMm = AOTITorchError(AtenTensorHandle out, AtenTensorHandle self, AtenTensorHandle mat2);
using NativeAddmm = AOTITorchError(AtenTensorHandle out, AtenTensorHandle self, AtenTensorHandle mat1,
                                   AtenTensorHandle mat2, double beta, double alpha);

// at::<device>::{mm,bmm,addmm,baddbmm}_out.
struct NativeGemm {
  NativeMm *mm, *bmm;
  NativeAddmm *addmm, *baddbmm;
};

// What an environment variable says, `auto` where it is not set.
inline RouteMode route_mode(const char* variable) {
  RouteMode mode = RouteMode::automatic;
  const char* wish = std::getenv(variable);
  MYOPS_CHECK(wish == nullptr || *wish == 0 || parse_route_mode(wish, &mode), variable,
              " must be own, native or auto, but is ", wish);
  return mode;
}

// A tensor over a view's memory, which it does not own. A C that is one row repeated becomes 1-D: torch adds that in
// its epilogue, and copies any other. A side of 1 has the stride that torch takes for one of BLAS.
inline Tensor tensor_of(const Gemm& g, const MatrixView& v, int64_t rows, int64_t cols, const Tensor& like,
                        bool row_only = false) {
  const int64_t batch = g.batch_dims == 1 ? g.batch_size[0] : 1;
  const int64_t row_stride = rows > 1 ? v.row_stride : v.col_stride == 1 ? cols : 1;
  const int64_t col_stride = cols > 1 ? v.col_stride : row_stride == 1 ? rows : 1;
  const int64_t sizes[3] = {batch, rows, cols}, strides[3] = {v.batch_stride[0], row_stride, col_stride};
  const int skipped = row_only ? 2 : g.batch_dims == 1 ? 0 : 1;
  int32_t device_type;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  const int32_t dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(scalar_type_of(g.in)));
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_create_tensor_from_blob(v.data, 3 - skipped, sizes + skipped, strides + skipped, 0,
                                                            dtype, device_type, like.get_device_index(), &handle));
  const Tensor t(handle);
  return v.conj ? call_aten<Tensor>("aten::_conj", t) : t;
}

// D = alpha * A @ B + beta * C; on CUDA on the current stream. Requires native_takes.
inline void run_native(const NativeGemm& native, const Gemm& g, const Tensor& like) {
  const Tensor a = tensor_of(g, g.A, g.M, g.K, like), b = tensor_of(g, g.B, g.K, g.N, like);
  const Tensor d = tensor_of(g, g.D, g.M, g.N, like);
  const bool batched = g.batch_dims == 1;
  if (g.C.data == nullptr && g.alpha == 1) {
    TORCH_ERROR_CODE_CHECK((batched ? native.bmm : native.mm)(d.get(), a.get(), b.get()));
    return;
  }
  const bool none = g.C.data == nullptr;  // then beta = 0, and C is not read
  const bool in_place = g.C.data == g.D.data;
  const bool row_only = !none && !batched && g.C.row_stride == 0 && g.C.col_stride == 1;
  const Tensor c = none || in_place ? d : tensor_of(g, g.C, g.M, g.N, like, row_only);
  TORCH_ERROR_CODE_CHECK(
      (batched ? native.baddbmm : native.addmm)(d.get(), c.get(), a.get(), b.get(), none ? 0 : g.beta, g.alpha));
}

}  // namespace myops
