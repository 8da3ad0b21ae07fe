// Launches on torch's current stream of the device that the tensors live on. Beside the entry points, the one CUDA file
// that knows torch; the kernels (gemm/, add/, sparse/) see pointers and strides.
#include "backend.h"

#include <cstdlib>
#include <vector>

#include "../native_gemm.h"
#include "add/add_kernel.h"
#include "gemm/gemm.h"
#include "gemm/native.h"
#include "sparse/sparse.h"

// Exported by the CUDA build of torch only, and declared by torch's headers only under USE_CUDA, which this project
// leaves undefined so that it compiles against a torch without CUDA.
extern "C" {
AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);
myops::NativeMm aoti_torch_cuda_mm_out, aoti_torch_cuda_bmm_out;
myops::NativeAddmm aoti_torch_cuda_addmm_out, aoti_torch_cuda_baddbmm_out;
}

// at::globalContext(), and at::Context::float32Precision, which returns an enumeration. torch has no stable function
// that says whether float32 products may be rounded to TF32; a torch without these two has exact ones here.
extern "C" {
__attribute__((weak)) void* myops_torch_context() __asm__("_ZN2at13globalContextEv");
__attribute__((weak)) int myops_torch_float32_precision(const void* context, int backend, int op) __asm__(
    "_ZNK2at7Context16float32PrecisionENS_14Float32BackendENS_9Float32OpE");
}

namespace myops {
namespace {

// What torch.backends.cuda.matmul.fp32_precision and its older names have been set to.
bool tf32_is_allowed() {
  constexpr int kCuda = 1, kMatmul = 3, kTf32 = 2;
  if (myops_torch_context == nullptr || myops_torch_float32_precision == nullptr) return false;
  return myops_torch_float32_precision(myops_torch_context(), kCuda, kMatmul) == kTf32;
}

// The device of a tensor made current, and torch's stream there.
struct CurrentStream {
  const int32_t device;
  std::optional<torch::stable::accelerator::DeviceGuard> guard;
  void* stream = nullptr;

  explicit CurrentStream(const Tensor& like) : device(like.get_device_index()) {
    if (like.is_cuda()) guard.emplace(device);  // the emulated kernels work on CPU tensors
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  }
  operator cudaStream_t() const { return static_cast<cudaStream_t>(stream); }

  void check(cudaError_t error, const char* kernel) const {
    if (error != cudaSuccess) cudaGetLastError();  // reported here, and not again by the thread's next launch
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

// A session of the sparse launchers, with memory from torch's allocator: a block freed on return is given out again in
// the order of the stream.
class Session {
 public:
  explicit Session(const Tensor& like) : stream_(like), like_(like) {
    session_.stream = stream_;
    session_.allocate = &allocate;
    session_.allocated = [](void* cookie) { return static_cast<int64_t>(held_by(cookie).size()); };
    session_.release = [](void* cookie, int64_t kept) {
      held_by(cookie).erase(held_by(cookie).begin() + kept, held_by(cookie).end());
    };
    session_.cookie = this;
    int capability = 0;
    check(query_capability(stream_.device, &capability), "sparse");
    session_.early = capability == 90;
  }

  // From here on kernels note what they find wrong, and what they noted will be read.
  void look() {
    session_.findings = session_.array<unsigned>(1);
    check(cudaMemsetAsync(session_.findings, 0, sizeof(unsigned), session_.stream), "sparse");
  }
  // The same, where nothing can go on before that.
  void look_in_any_case(const char* op) {
    MYOPS_CHECK(!capturing(), "myops.", op, " waits for the device, so that it cannot be captured in a CUDA graph");
    look();
  }
  bool capturing() const {
    cudaStreamCaptureStatus status;
    check(cudaStreamIsCapturing(session_.stream, &status), "sparse");
    return status != cudaStreamCaptureStatusNone;
  }
  template <class Problem>
  Status run(const char* kernel, cudaError_t (*launch)(const Problem&, const SparseSession&), const Problem& problem) {
    check(launch(problem, session_), kernel);
    Status status = Status::ok;
    if (session_.findings != nullptr) check(read_findings(session_, &status), kernel);
    return status;
  }

  const SparseSession& get() const { return session_; }
  void check(cudaError_t error, const char* kernel) const { stream_.check(error, kernel); }

 private:
  static std::vector<Tensor>& held_by(void* cookie) { return static_cast<Session*>(cookie)->held_; }
  static void* allocate(void* cookie, int64_t bytes) {
    held_by(cookie).push_back(empty(&bytes, 1, ScalarType::Byte, static_cast<Session*>(cookie)->like_));
    return held_by(cookie).back().data_ptr();
  }

  CurrentStream stream_;
  const Tensor& like_;
  std::vector<Tensor> held_;
  SparseSession session_;
};

void check_columns(const Csr& A) {
  MYOPS_CHECK(A.cols <= kMostColumns, "myops: the sparse matrix has ", A.cols,
              " columns, and CUDA kernels take at most ", kMostColumns);
}

template <class Problem>
Status run_product(const char* kernel, cudaError_t (*launch)(const Problem&, const SparseSession&),
                   const Problem& problem, const Tensor& like) {
  Session session(like);
  const char* blocking = std::getenv("CUDA_LAUNCH_BLOCKING");
  if (blocking != nullptr && blocking[0] == '1' && !session.capturing()) session.look();
  return session.run(kernel, launch, problem);
}

constexpr NativeGemm kNative = {&aoti_torch_cuda_mm_out, &aoti_torch_cuda_bmm_out, &aoti_torch_cuda_addmm_out,
                                &aoti_torch_cuda_baddbmm_out};

}  // namespace

void Cuda::run(const Gemm& problem, const Tensor& like) {
  if (problem.in == DType::f32 && !problem.tf32 && tf32_is_allowed()) {
    Gemm rounded = problem;
    rounded.tf32 = true;
    return run(rounded, like);
  }
  MYOPS_CHECK(problem.K <= kMaxDepth, "myops: the operands' common side is ", problem.K,
              ", and CUDA kernels take at most ", kMaxDepth);
  if (choose_route(problem, route_mode("MYOPS_CUDA_GEMM"), native_is_faster) == Route::native)
    return run_native(kNative, problem, like);
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

Status Cuda::run(const Spmm& problem, const Tensor& like) {
  check_columns(problem.A);
  return run_product("spmm", launch_spmm, problem, like);
}

Status Cuda::run(const Extremum& problem, const Tensor& like) {
  check_columns(problem.A);
  return run_product("spmm_extremum", launch_extremum, problem, like);
}

Status Cuda::run(const Sddmm& problem, const Tensor& like) {
  check_columns(problem.A);
  return run_product("sddmm", launch_sddmm, problem, like);
}

Status Cuda::run(const Transpose& problem, const Tensor& like) {
  Session session(like);
  if (!session.capturing()) session.look();
  return session.run("csr_transpose", launch_transpose, problem);
}

Status Cuda::run(const CompressRows& problem, const Tensor& like) {
  return run_product("csr_rows", launch_compress_rows, problem, like);
}

Status Cuda::run(const Spgemm& problem, const Tensor& like, const SpgemmSink& sink) {
  Session session(like);
  session.look_in_any_case("spgemm");
  Status status = Status::ok;
  session.check(launch_spgemm(problem, sink, session.get(), &status), "spgemm");
  return status;
}

Status Cuda::run(const SpgemmBackward& problem, const Tensor& like) {
  Session session(like);
  session.look_in_any_case("spgemm_backward");
  Status status = Status::ok;
  session.check(launch_spgemm_backward(problem, session.get(), &status), "spgemm_backward");
  return status;
}

}  // namespace myops
