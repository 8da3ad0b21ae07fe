// AVX-512 without the 16-bit float dot product (Skylake-X to Ice Lake).
#include "avx512.h"

#include "engine.h"

namespace myops::cpu {

MYOPS_KERNELS_OF(template, Avx512)

const Engine kAvx512 = make_engine<Avx512, Level::avx512>();

}  // namespace myops::cpu
