// The driver's side of tensor_map.h.
#include "tensor_map.h"

#if !defined(MYOPS_CUDA_EMULATION) && !defined(USE_ROCM)
#include <cudaTypedefs.h>

namespace myops {

cudaError_t make_tensor_map(const TensorMapSpec& spec, TensorMap* map) {
  static void* const function = [] {  // asked for once: a launch makes up to five maps
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result;
    cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
    return found;
  }();
  if (function == nullptr) return cudaErrorNotSupported;
  const cuuint32_t box[5] = {spec.box[0], spec.box[1], 1, 1, 1}, element_strides[5] = {1, 1, 1, 1, 1};
  cuuint64_t size[5], stride[4];
  for (int i = 0; i < 5; ++i) size[i] = spec.size[i];
  for (int i = 0; i < 4; ++i) stride[i] = spec.stride[i];
  const CUtensorMapDataType type = spec.type == DType::bf16  ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                   : spec.type == DType::f16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                   : spec.type == DType::f32 ? CU_TENSOR_MAP_DATA_TYPE_TFLOAT32
                                                             : CU_TENSOR_MAP_DATA_TYPE_UINT8;
  const auto encode = [&] {
    const CUresult result = reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function)(
        map, type, 5, const_cast<void*>(spec.data), size, stride, box, element_strides, CU_TENSOR_MAP_INTERLEAVE_NONE,
        CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return static_cast<cudaError_t>(result);  // the same numbers in both
  };
  const cudaError_t error = encode();
  if (error != cudaErrorDeviceUninitialized) return error;
  // The first work of this thread: a guard for device 0, which is current by default, has set nothing.
  int device = 0;
  const cudaError_t found = cudaGetDevice(&device), bound = found == cudaSuccess ? cudaSetDevice(device) : found;
  return bound == cudaSuccess ? encode() : bound;
}

}  // namespace myops
#endif
