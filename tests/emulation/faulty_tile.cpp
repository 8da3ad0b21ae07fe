// kernels/cuda/gemm/tile.cuh with one of its barriers taken out: the emulation must find each one missing.
//
// The build compiles this file with -Dmyops=myops_faulty, so that its templates are not those of the real kernels.
#include <set>
#include <string>

namespace {

int skipped = -1;        // which barrier of the kernel, in order of first use, to leave out
std::set<int> barriers;  // the lines of those met so far

void planted_barrier(const char* file, int line) {
  barriers.insert(line);
  int rank = 0;
  for (int l : barriers) rank += l < line;
  if (rank != skipped) emulation::Scheduler::get().barrier(file, line);
}

}  // namespace

#undef __syncthreads
#define __syncthreads() planted_barrier(__FILE__, __LINE__)
#include "../../kernels/cuda/gemm/tile.cuh"

// Runs a 40 x 40 x 40 product of ones without barrier `barrier` (-1: with all). Returns the fault's text, "" for none.
extern "C" __attribute__((visibility("default"))) const char* emulation_faulty_tile(int barrier) {
  using namespace myops;
  static std::string message;
  skipped = barrier;
  float a[1600], b[1600], d[1600];
  for (int i = 0; i < 1600; ++i) a[i] = b[i] = 1, d[i] = 0;
  Gemm g;
  g.M = g.N = g.K = 40;
  g.A.data = a, g.B.data = b, g.D.data = d;
  for (MatrixView* v : {&g.A, &g.B, &g.D}) v->row_stride = 40, v->col_stride = 1;
  const cudaError_t error = launch_tile<DType::f32>(g, plan_with_tile(g, TileSize::small), nullptr);
  message = error == cudaSuccess ? "" : cudaGetErrorString(error);
  for (float x : d)
    if (message.empty() && x != 40) message = "a wrong result";
  return message.c_str();
}
