// What the tests reach through ctypes: the seed, the machine, planted bugs, plans and a sort alone; and what torch's
// CUDA build would give. Not here: the operators, which the library registers with torch like the real one.
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "../../kernels/cuda/gemm/gemm.h"
#include "../../kernels/cuda/sparse/rows.h"
#include "../../kernels/cuda/sparse/sddmm.cuh"
#include "../../kernels/cuda/sparse/sort.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

// torch's name; the CPU build of torch has no such function.
extern "C" int aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return 0;
}

// Bytes of shared memory that a block can ask for, as the device would say.
EXPORT void emulation_shared_memory(int bytes) { emulation::shared_memory = bytes; }

// torch's CUDA kernels: its CPU kernels, and how often they were called.
namespace {
int native_calls = 0;
}
EXPORT int emulation_native_calls() { return native_calls; }

#define NATIVE(name, parameters, arguments)              \
  extern "C" int32_t aoti_torch_cpu_##name parameters;   \
  extern "C" int32_t aoti_torch_cuda_##name parameters { \
    ++native_calls;                                      \
    return aoti_torch_cpu_##name arguments;              \
  }
NATIVE(mm_out, (void* out, void* a, void* b), (out, a, b))
NATIVE(bmm_out, (void* out, void* a, void* b), (out, a, b))
NATIVE(addmm_out, (void* out, void* c, void* a, void* b, double beta, double alpha), (out, c, a, b, beta, alpha))
NATIVE(baddbmm_out, (void* out, void* c, void* a, void* b, double beta, double alpha), (out, c, a, b, beta, alpha))
#undef NATIVE

EXPORT void emulation_machine(int multiprocessors, int capability) {
  emulation::multiprocessors = multiprocessors, emulation::capability = capability;
}

// Products that tensor cores were given by wgmma so far, counted by warps.
EXPORT int64_t emulation_wgmmas() { return emulation::wgmmas; }

// Clusters of blocks (or blocks) that were run so far.
EXPORT int64_t emulation_clusters() { return static_cast<int64_t>(emulation::Scheduler::get().block_number()); }

EXPORT void emulation_seed(uint64_t seed) { emulation::Scheduler::get().set_seed(seed); }

// How many places in the source have called `call` so far, of which `place` is left out from now on (-1: none).
EXPORT int emulation_leave_out(const char* call, int place) {
  auto& places = emulation::left_out.met[call];
  emulation::left_out.call = "";
  if (place >= 0 && place < static_cast<int>(places.size())) {
    emulation::left_out.call = call;
    emulation::left_out.place = *std::next(places.begin(), place);
  }
  return static_cast<int>(places.size());
}

EXPORT void emulation_forget_calls() { emulation::left_out = {}; }

// plan: lanes of a team, steps of a team and of a block, tiles, chunks.
EXPORT void emulation_rows_plan(int64_t rows, int64_t cols, int64_t nnz, int64_t n, int64_t vector, int64_t* plan) {
  myops::Csr A;
  A.rows = rows, A.cols = cols, A.nnz = nnz;
  const myops::RowsPlan p = myops::plan_rows(A, n, vector);
  const int64_t values[] = {1 << p.group_shift, p.team_steps, p.steps, p.tiles, p.chunks};
  std::memcpy(plan, values, sizeof(values));
}

// plan: entries of a team, columns at a time, blocks.
EXPORT void emulation_sddmm_plan(int64_t rows, int64_t cols, int64_t nnz, int64_t vector, int64_t bytes,
                                 int64_t sum_bytes, int64_t* plan) {
  myops::Csr A;
  A.rows = rows, A.cols = cols, A.nnz = nnz;
  const myops::SddmmPlan p = myops::plan_sddmm(A, vector, bytes, sum_bytes);
  const int64_t values[] = {p.span, p.tile, p.blocks};
  std::memcpy(plan, values, sizeof(values));
}

EXPORT void emulation_tile_at(int64_t index, int64_t tiles_m, int64_t tiles_n, int64_t* tile) {
  // As kernels divide: in 32 bits where the tiles have such numbers.
  const bool narrow = tiles_m * tiles_n <= INT32_MAX && index <= INT32_MAX;
  const myops::TileIndex t = narrow ? myops::tile_at(uint32_t(index), uint32_t(tiles_m), uint32_t(tiles_n))
                                    : myops::tile_at(index, tiles_m, tiles_n);
  tile[0] = t.item, tile[1] = t.m, tile[2] = t.n;
}

// float32 to the 16-bit types and back, to compare with torch's.
EXPORT uint16_t emulation_to_half(float x) { return __float2half_rn(x).bits; }
EXPORT float emulation_from_half(uint16_t bits) { return __half2float(__half{bits}); }
EXPORT uint16_t emulation_to_bfloat16(float x) { return __float2bfloat16_rn(x).bits; }
EXPORT float emulation_from_bfloat16(uint16_t bits) { return __bfloat162float(__nv_bfloat16{bits}); }

// Sorts 10000 keys of 12 bits, and adds 5000 numbers up. Returns the fault's text, or what is wrong with the results,
// "" for nothing.
EXPORT const char* emulation_sort() {
  using namespace myops;
  using Held = std::vector<std::unique_ptr<char[]>>;
  static std::string message;
  Held held;
  SparseSession session;
  session.cookie = &held;
  session.allocate = [](void* cookie, int64_t bytes) -> void* {
    static_cast<Held*>(cookie)->emplace_back(new char[bytes]);
    return static_cast<Held*>(cookie)->back().get();
  };
  std::vector<uint32_t> keys(10000), sorted(keys.size()), order(keys.size());
  for (size_t i = 0; i < keys.size(); ++i) keys[i] = static_cast<uint32_t>(i * 2654435761u) >> 20;
  const cudaError_t error =
      launch_sort(keys.data(), static_cast<int64_t>(keys.size()), 12, sorted.data(), order.data(), session);
  message = error == cudaSuccess ? "" : cudaGetErrorString(error);
  for (size_t i = 0; i < keys.size() && message.empty(); ++i) {
    const bool right = order[i] < keys.size() && keys[order[i]] == sorted[i];
    const bool after = i == 0 || sorted[i - 1] < sorted[i] || (sorted[i - 1] == sorted[i] && order[i - 1] < order[i]);
    if (!right || !after) message = "a wrong order";
  }
  std::vector<int64_t> sums(5001, 3);
  if (message.empty() && launch_exclusive_scan(sums.data(), 5000, session) != cudaSuccess)
    message = cudaGetErrorString(cudaErrorLaunchFailure);
  for (size_t i = 0; i < sums.size() && message.empty(); ++i)
    if (sums[i] != static_cast<int64_t>(3 * i)) message = "a wrong sum";
  return message.c_str();
}
