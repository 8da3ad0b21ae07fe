// Launches on torch's current stream of the device that the tensors live on. Beside the entry points, the one CUDA file
// that knows torch; the kernels (gemm/, add/) see pointers and strides.
#include "backend.h"

#include "add/add_kernel.h"
#include "gemm/gemm.h"
#include "gemm/route.h"
#include "native.h"

// Exported by the CUDA build of torch only, and declared by torch's headers only under USE_CUDA, which this project
// leaves undefined so that it compiles against a torch without CUDA.
extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);

namespace myops {
namespace {

// The device of a tensor made current, and torch's stream there.
struct CurrentStream {
  const int32_t device;
  std::optional<torch::stable::accelerator::DeviceGuard> guard;
  void* stream = nullptr;

  explicit CurrentStream(const Tensor& like) : device(like.get_device_index()) {
    if (like.is_cuda()) guard.emplace(device);  // the emulated kernels work on CPU tensors
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  }
  operator cudaStream_t() const { return static_cast<cudaStream_t>(stream); }

  void check(cudaError_t error, const char* kernel) const {
    MYOPS_CHECK(error == cudaSuccess, "myops: the CUDA ", kernel, " kernel could not be launched on device ", device,
                ": ", cudaGetErrorName(error), ": ", cudaGetErrorString(error));
  }
};

template <class Problem>
void launch_on_current_stream(const char* kernel, cudaError_t (*launch)(const Problem&, cudaStream_t),
                              const Problem& problem, const Tensor& like) {
  const CurrentStream stream(like);
  stream.check(launch(problem, stream), kernel);
}

}  // namespace

void Cuda::run(const Gemm& problem, const Tensor& like) {
  RouteMode mode = RouteMode::automatic;
  const char* wish = std::getenv("MYOPS_CUDA_GEMM");
  MYOPS_CHECK(wish == nullptr || *wish == 0 || parse_route_mode(wish, &mode),
              "MYOPS_CUDA_GEMM must be own, native or auto, but is ", wish);
  if (choose_route(problem, mode) == Route::native) return run_native(problem, like);
  const CurrentStream stream(like);
  Machine machine;
  stream.check(query_machine(&machine), "gemm");
  if (walks_outer_batch(problem, machine)) {
    for (int64_t i = 0; i < problem.batch_size[0]; ++i) run(outer_item(problem, i), like);
    return;
  }
  const GemmPlan plan = plan_gemm(problem, machine);
  // Given back at the end of this call: torch's allocator hands it only to later work of the same stream.
  std::optional<Tensor> workspace;
  if (plan.workspace_bytes > 0) workspace = empty(&plan.workspace_bytes, 1, ScalarType::Byte, like);
  stream.check(launch_gemm(problem, plan, workspace ? workspace->data_ptr() : nullptr, stream), "gemm");
}

void Cuda::run(const Add& problem, const Tensor& like) {
  launch_on_current_stream<Add>("add", launch_add, problem, like);
}

}  // namespace myops
