// For tests and tuning: plans as text, and products by a kernel of the caller's choice, over raw pointers.
//
// C functions, which Python reaches through ctypes in this library and in its emulation alike. sizes: M, N, K, batch.
// strides: row, column and batch, in elements, of A, B and D. Not here: torch, checks of shapes.
#include <string>

#include "gemm.h"
#include "native.h"

#define MYOPS_EXPORT extern "C" __attribute__((visibility("default")))

namespace myops {
namespace {

Gemm make_gemm(int type, const int64_t* sizes, const int64_t* strides) {
  Gemm g;
  g.M = sizes[0], g.N = sizes[1], g.K = sizes[2];
  g.batch_dims = 1;
  g.batch_size[0] = sizes[3];
  g.in = g.c_type = g.out = static_cast<DType>(type);
  MatrixView* views[3] = {&g.A, &g.B, &g.D};
  for (int i = 0; i < 3; ++i) {
    views[i]->row_stride = strides[3 * i];
    views[i]->col_stride = strides[3 * i + 1];
    views[i]->batch_stride[0] = strides[3 * i + 2];
  }
  return g;
}

// "": the kernel that plan_gemm chooses. False where that kernel does not take the problem, or none has the name. A
// kernel that is named may round float32 to TF32.
bool plan_by_name(const std::string& name, const Gemm& g, const Machine& machine, GemmPlan* plan) {
  const size_t space = name.find(' ');
  const std::string first = space == std::string::npos ? "" : name.substr(0, space);
  const TileSize size = first == "large"      ? TileSize::large
                        : first == "narrow"   ? TileSize::narrow
                        : first == "medium"   ? TileSize::medium
                        : first == "pingpong" ? TileSize::pingpong
                                              : TileSize::small;
  const std::string kind = first.empty() ? name : name.substr(space + 1);
  const bool tensor_floats = (g.in == DType::f32 || has_tensor_floats(g));
  if (kind == "") {
    *plan = plan_gemm(g, machine);
  } else if (kind == "tile" && has_tile(g.in, size)) {
    *plan = plan_with_tile(g, size);
  } else if (kind == "skinny" && is_floating(g.in) && (g.M <= kSkinnyRows || g.N <= kSkinnyRows)) {
    *plan = plan_skinny(g, machine);
  } else if (kind == "tiny" && takes_tiny_shape(g)) {
    *plan = plan_tiny(g);
  } else if (kind == "limb" && is_integral(g.in) && g.in != DType::boolean) {
    *plan = plan_limb(g, size);
  } else if (kind == "mma" && has_mma_shape(size) &&
             (tensor_floats || (element_size(g.in) == 1 && g.in != DType::boolean))) {
    *plan = plan_tensor(g, GemmKernel::mma, size, machine);
  } else if (kind == "wgmma" && takes_limb_wgmma(g, size, machine)) {
    *plan = plan_limb_wgmma(g, size, machine.multiprocessors);
  } else if (kind == "wgmma" && tensor_floats && has_wgmma_shape(size) && machine.capability == 90 &&
             numbers_wgmma_tiles(g)) {
    *plan = plan_tensor(g, GemmKernel::wgmma, size, machine);
  } else {
    return false;
  }
  return true;
}

const char* keep(const std::string& text) {
  thread_local std::string kept;
  kept = text;
  return kept.c_str();
}

const std::string kRefused = "error: no such kernel, or it does not take this problem";

}  // namespace
}  // namespace myops

// The plan as key=value pairs, or "error: ...". multiprocessors 0: of the current device. Pointers count as aligned.
// activation, matrix_c: what follows the sums, C being a contiguous matrix.
MYOPS_EXPORT const char* myops_cuda_plan(int type, const int64_t* sizes, const int64_t* strides, const char* kernel,
                                         int multiprocessors, int capability, int batch_invariant, int tf32,
                                         int activation, int matrix_c) {
  using namespace myops;
  Machine machine{multiprocessors, capability};
  if (multiprocessors == 0 && query_machine(&machine) != cudaSuccess) return keep("error: no device");
  Gemm g = make_gemm(type, sizes, strides);
  g.batch_invariant = batch_invariant != 0, g.tf32 = tf32 != 0;
  g.activation = static_cast<Activation>(activation);
  int64_t aligned[2];
  if (matrix_c != 0) g.C = {aligned, g.N, 1, {g.M * g.N}};
  GemmPlan plan;
  if (!plan_by_name(kernel, g, machine, &plan)) return keep(kRefused);
  return keep(describe(plan));
}

// Enqueues D = f(A @ B + C) on the current device, by at most max_blocks blocks. c: nullptr, or C, with three strides
// more. activation: f, as in Activation. before: nullptr, or where what f is applied to goes, laid out as D. workspace:
// what the plan for the same pointers asks for, which is at most that of operands that are all packed. Returns the
// plan, or "error: ...".
MYOPS_EXPORT const char* myops_cuda_gemm(int type, const int64_t* sizes, const int64_t* strides, void* a, void* b,
                                         void* d, void* c, void* before, int activation, const char* kernel,
                                         int64_t max_blocks, void* workspace, int64_t workspace_bytes, void* stream) {
  using namespace myops;
  Gemm g = make_gemm(type, sizes, strides);
  g.A.data = a, g.B.data = b, g.D.data = d;
  if (c != nullptr) g.C = {c, strides[9], strides[10], {strides[11]}};
  g.activation = static_cast<Activation>(activation), g.preactivation = before;
  Machine machine;
  GemmPlan plan;
  cudaError_t error = query_machine(&machine);
  if (error == cudaSuccess) {
    if (!plan_by_name(kernel, g, machine, &plan)) return keep(kRefused);
    if (plan.workspace_bytes > workspace_bytes)
      return keep("error: the workspace has to have " + std::to_string(plan.workspace_bytes) + " bytes");
    const int64_t cluster = plan.kernel == GemmKernel::wgmma ? wgmma_shape(plan.size).cluster() : 1;
    if (plan.blocks > max_blocks) plan.blocks = max_blocks < cluster ? cluster : max_blocks / cluster * cluster;
    error = launch_gemm(g, plan, workspace, static_cast<cudaStream_t>(stream));
  }
  if (error == cudaSuccess) return keep(describe(plan));
  cudaGetLastError();  // told here, and not again by the next launch
  return keep(std::string("error: ") + cudaGetErrorString(error));
}

// 1 where the product goes to torch's kernels, 0 where to this library's. mode: own, native or auto.
MYOPS_EXPORT int myops_cuda_route(int type, const int64_t* sizes, const int64_t* strides, const char* mode) {
  using namespace myops;
  RouteMode parsed;
  if (!parse_route_mode(mode, &parsed)) return -1;
  return static_cast<int>(choose_route(make_gemm(type, sizes, strides), parsed, native_is_faster));
}
