// Calls at::cuda::{mm,addmm,bmm,baddbmm}_out through torch's C shims. These do not go through the dispatcher, so the
// call reaches torch's kernels even where myops.override has put this library in their place there.
#include "native.h"

// Exported by the CUDA build of torch only, as the stream in backend.cu.
extern "C" {
AOTITorchError aoti_torch_cuda_mm_out(AtenTensorHandle out, AtenTensorHandle self, AtenTensorHandle mat2);
AOTITorchError aoti_torch_cuda_addmm_out(AtenTensorHandle out, AtenTensorHandle self, AtenTensorHandle mat1,
                                         AtenTensorHandle mat2, double beta, double alpha);
AOTITorchError aoti_torch_cuda_bmm_out(AtenTensorHandle out, AtenTensorHandle self, AtenTensorHandle mat2);
AOTITorchError aoti_torch_cuda_baddbmm_out(AtenTensorHandle out, AtenTensorHandle self, AtenTensorHandle batch1,
                                           AtenTensorHandle batch2, double beta, double alpha);
}

namespace myops {
namespace {

// A tensor over a view's memory, which it does not own. A C that is one row repeated becomes 1-D: torch adds that in
// its epilogue, and copies any other.
Tensor tensor_of(const Gemm& g, const MatrixView& v, int64_t rows, int64_t cols, const Tensor& like,
                 bool row_only = false) {
  const int64_t batch = g.batch_dims == 1 ? g.batch_size[0] : 1;
  const int64_t sizes[3] = {batch, rows, cols}, strides[3] = {v.batch_stride[0], v.row_stride, v.col_stride};
  const int skipped = row_only ? 2 : g.batch_dims == 1 ? 0 : 1;
  int32_t device_type;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  const int32_t dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(scalar_type_of(g.in)));
  AtenTensorHandle handle;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_create_tensor_from_blob(v.data, 3 - skipped, sizes + skipped,
                                                                   strides + skipped, 0, dtype, device_type,
                                                                   like.get_device_index(), &handle));
  return Tensor(handle);
}

}  // namespace

void run_native(const Gemm& g, const Tensor& like) {
  const Tensor a = tensor_of(g, g.A, g.M, g.K, like), b = tensor_of(g, g.B, g.K, g.N, like);
  const Tensor d = tensor_of(g, g.D, g.M, g.N, like);
  const bool batched = g.batch_dims == 1;
  if (g.C.data == nullptr && g.alpha == 1) {
    STABLE_TORCH_ERROR_CODE_CHECK(batched ? aoti_torch_cuda_bmm_out(d.get(), a.get(), b.get())
                                          : aoti_torch_cuda_mm_out(d.get(), a.get(), b.get()));
    return;
  }
  const bool none = g.C.data == nullptr;  // then beta = 0, and C is not read
  const bool in_place = g.C.data == g.D.data;
  const bool row_only = !none && !batched && g.C.row_stride == 0 && g.C.col_stride == 1;
  const Tensor c = none || in_place ? d : tensor_of(g, g.C, g.M, g.N, like, row_only);
  auto* add = batched ? &aoti_torch_cuda_baddbmm_out : &aoti_torch_cuda_addmm_out;
  STABLE_TORCH_ERROR_CODE_CHECK(add(d.get(), c.get(), a.get(), b.get(), none ? 0 : g.beta, g.alpha));
}

}  // namespace myops
