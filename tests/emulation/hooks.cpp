// What the tests reach through ctypes: the seed, the device's limits, the plan, products by a given plan, and the
// stream that torch would give. Not here: the operators, which the library registers with torch like the real one.
#include "../../kernels/cuda/gemm/gemm.h"
#include "../../kernels/cuda/sparse/rows.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

// torch's name; the CPU build of torch has no such function.
extern "C" int aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return 0;
}

// Bytes of shared memory that a block can ask for, as the device would say.
EXPORT void emulation_shared_memory(int bytes) { emulation::shared_memory = bytes; }

EXPORT void emulation_seed(uint64_t seed) { emulation::Scheduler::get().set_seed(seed); }

namespace {

// sizes: M, N, K, batch. strides: row, column and batch of A, B and D.
myops::Gemm make_gemm(int type, const int64_t* sizes, const int64_t* strides) {
  myops::Gemm g;
  g.M = sizes[0], g.N = sizes[1], g.K = sizes[2];
  g.batch_dims = 1;
  g.batch_size[0] = sizes[3];
  g.in = g.c_type = g.out = static_cast<myops::DType>(type);
  myops::MatrixView* views[3] = {&g.A, &g.B, &g.D};
  for (int i = 0; i < 3; ++i) {
    views[i]->row_stride = strides[3 * i];
    views[i]->col_stride = strides[3 * i + 1];
    views[i]->batch_stride[0] = strides[3 * i + 2];
  }
  return g;
}

}  // namespace

// plan: size, transpose, a_along_k, b_along_k, tiles_m, tiles_n, tiles, blocks.
EXPORT void emulation_plan(int type, const int64_t* sizes, const int64_t* strides, int multiprocessors, int64_t* plan) {
  const myops::GemmPlan p = myops::plan_gemm(make_gemm(type, sizes, strides), multiprocessors);
  const int64_t values[] = {
      static_cast<int64_t>(p.size), p.transpose, p.a_along_k, p.b_along_k, p.tiles_m, p.tiles_n, p.tiles, p.blocks};
  std::memcpy(plan, values, sizeof(values));
}

// plan: lanes along the columns, lanes of a team, tiles, segments, blocks.
EXPORT void emulation_rows_plan(int64_t rows, int64_t nnz, int64_t n, int64_t vector, int64_t* plan) {
  myops::Csr A;
  A.rows = rows, A.nnz = nnz;
  const myops::RowsPlan p = myops::plan_rows(A, n, vector);
  const int64_t values[] = {1 << p.group_shift, 1 << p.team_shift, p.tiles, p.segments, p.blocks};
  std::memcpy(plan, values, sizeof(values));
}

EXPORT void emulation_tile_at(int64_t index, int64_t tiles_m, int64_t tiles_n, int64_t* tile) {
  const myops::TileIndex t = myops::tile_at(index, tiles_m, tiles_n);
  tile[0] = t.item, tile[1] = t.m, tile[2] = t.n;
}

// D = A @ B by a tile of the caller's choice and at most max_blocks blocks. Returns the error's text, empty for none.
EXPORT const char* emulation_gemm(int type, const int64_t* sizes, const int64_t* strides, void* a, void* b, void* d,
                                  int large, int64_t max_blocks) {
  myops::Gemm g = make_gemm(type, sizes, strides);
  g.A.data = a, g.B.data = b, g.D.data = d;
  const myops::TileSize size = large ? myops::TileSize::large : myops::TileSize::small;
  const cudaError_t error = myops::launch_gemm_planned(g, myops::plan_with_tile(g, size, max_blocks), nullptr);
  return error == cudaSuccess ? "" : cudaGetErrorString(error);
}

// float32 to the 16-bit types and back, to compare with torch's.
EXPORT uint16_t emulation_to_half(float x) { return __float2half_rn(x).bits; }
EXPORT float emulation_from_half(uint16_t bits) { return __half2float(__half{bits}); }
EXPORT uint16_t emulation_to_bfloat16(float x) { return __float2bfloat16_rn(x).bits; }
EXPORT float emulation_from_bfloat16(uint16_t bits) { return __bfloat162float(__nv_bfloat16{bits}); }
