// What every CPU of the architecture has: 16-byte vectors (SSE2, VSX), 16 registers, no masks, no 16-bit float
// conversion.
#include "engine.h"
#include "portable.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace myops::cpu {
namespace {

struct Baseline : Portable<16> {
  using Gather = Baseline;
  static constexpr bool kMaskedLoads = false, kBf16Dot = false, kInt8Dot = false;
  static constexpr int kPanelVectors = 2, kDotRows = 2;
#if defined(__SSE2__)
  static inline Vec<uint32_t> dot_i16(Vec<uint32_t> acc, Vec<uint32_t> a, Vec<uint32_t> b) {
    return acc +
           reinterpret_cast<Vec<uint32_t>>(_mm_madd_epi16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
  }
#endif
};

}  // namespace

const Engine kBaseline = make_engine<Baseline, Level::baseline>();

}  // namespace myops::cpu
