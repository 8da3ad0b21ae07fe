// AVX2 with FMA and F16C: 32-byte vectors, 16 registers.
#include <immintrin.h>

#include "engine.h"
#include "portable.h"

namespace myops::cpu {
namespace {

struct Avx2 : Portable<32> {
  using Gather = Avx2;
  static constexpr bool kMaskedLoads = false, kBf16Dot = false, kInt8Dot = false;
  static constexpr int kPanelVectors = 2, kDotRows = 2;
  using Portable<32>::widen;
  using Portable<32>::narrow;

  static inline Vec<float> widen(const f16* p) {
    return reinterpret_cast<Vec<float>>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  template <class S>
  static inline Vec<float> widen_partial(const S* p, int n) {
    S whole[lanes<float>] = {};
    std::memcpy(whole, p, n * sizeof(S));
    return widen(whole);
  }
  static inline Vec<uint32_t> dot_i16(Vec<uint32_t> acc, Vec<uint32_t> a, Vec<uint32_t> b) {
    return acc + reinterpret_cast<Vec<uint32_t>>(
                     _mm256_madd_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
  }
  static inline void narrow(f16* p, Vec<float> v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                     _mm256_cvtps_ph(reinterpret_cast<__m256>(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
};

}  // namespace

const Engine kAvx2 = make_engine<Avx2, Level::avx2>();

}  // namespace myops::cpu
