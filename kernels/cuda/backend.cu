// Launches on torch's current stream of the device that the tensors live on. Beside the entry points, the one CUDA file
// that knows torch; the kernels (gemm/, add/) see pointers and strides.
#include "backend.h"

#include "add/add_kernel.h"
#include "gemm/gemm.h"

// Exported by the CUDA build of torch only, and declared by torch's headers only under USE_CUDA, which this project
// leaves undefined so that it compiles against a torch without CUDA.
extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);

namespace myops {
namespace {

template <class Problem>
void launch_on_current_stream(const char* kernel, cudaError_t (*launch)(const Problem&, cudaStream_t),
                              const Problem& problem, const Tensor& like) {
  const int32_t device = like.get_device_index();
  std::optional<torch::stable::accelerator::DeviceGuard> guard;
  if (like.is_cuda()) guard.emplace(device);  // the emulated kernels work on CPU tensors
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  const cudaError_t error = launch(problem, static_cast<cudaStream_t>(stream));
  MYOPS_CHECK(error == cudaSuccess, "myops: the CUDA ", kernel, " kernel could not be launched on device ", device,
              ": ", cudaGetErrorName(error), ": ", cudaGetErrorString(error));
}

}  // namespace

void Cuda::run(const Gemm& problem, const Tensor& like) {
  launch_on_current_stream<Gemm>("gemm", launch_gemm, problem, like);
}

void Cuda::run(const Add& problem, const Tensor& like) {
  launch_on_current_stream<Add>("add", launch_add, problem, like);
}

}  // namespace myops
