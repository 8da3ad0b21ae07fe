// What the tests reach through ctypes: the seed, the machine, planted bugs; and what torch's CUDA build would give. Not
// here: the operators, which the library registers with torch like the real one.
#include <iterator>

#include "../../kernels/cuda/gemm/gemm.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

// torch's name; the CPU build of torch has no such function.
extern "C" int aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return 0;
}

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

EXPORT void emulation_tile_at(int64_t index, int64_t tiles_m, int64_t tiles_n, int64_t* tile) {
  const myops::TileIndex t = myops::tile_at(index, tiles_m, tiles_n);
  tile[0] = t.item, tile[1] = t.m, tile[2] = t.n;
}

// float32 to the 16-bit types and back, to compare with torch's.
EXPORT uint16_t emulation_to_half(float x) { return __float2half_rn(x).bits; }
EXPORT float emulation_from_half(uint16_t bits) { return __half2float(__half{bits}); }
EXPORT uint16_t emulation_to_bfloat16(float x) { return __float2bfloat16_rn(x).bits; }
EXPORT float emulation_from_bfloat16(uint16_t bits) { return __bfloat162float(__nv_bfloat16{bits}); }
