// AVX-512 with BF16 and VNNI (Cooper Lake, Zen 4 and later).
#include "avx512_bf16.h"

#include "engine.h"

namespace myops::cpu {

// For AMX.
template void gemm<Avx512Bf16>(const Gemm&, const Plan&, const Runtime&);
template void pack_weight<Avx512Bf16>(const Gemm&, const Plan&, void*);
template double peak_rate<Avx512Bf16>(DType, double);

const Engine kAvx512Bf16 = make_engine<Avx512Bf16, Level::avx512_bf16>();

}  // namespace myops::cpu
