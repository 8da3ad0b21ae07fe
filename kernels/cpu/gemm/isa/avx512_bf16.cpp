// AVX-512 with BF16 and VNNI (Cooper Lake, Zen 4 and later).
#include "avx512_bf16.h"

#include "engine.h"

namespace myops::cpu {

const Engine kAvx512Bf16 = make_engine<Avx512Bf16, Level::avx512_bf16>();

}  // namespace myops::cpu
