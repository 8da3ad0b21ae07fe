// NEON, which every 64-bit ARM has: 16-byte vectors, 32 registers, conversion of float16. Compiled and run in an
// emulator (tests/test_cross_compile.py); not yet measured on hardware.
#include <arm_neon.h>

#include "engine.h"
#include "portable.h"

namespace myops::cpu {
namespace {

struct Neon : Portable<16> {
  using Base = Neon;
  static constexpr bool kMaskedLoads = false, kBf16Dot = false, kInt8Dot = false;
  static constexpr int kPanelVectors = 4, kDotRows = 4;
  using Portable<16>::widen;
  using Portable<16>::narrow;

  static inline Vec<float> widen(const f16* p) {
    return reinterpret_cast<Vec<float>>(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&p->bits))));
  }
  static inline Halves narrow(f16, Vec<float> v) {
    return reinterpret_cast<Halves>(vcvt_f16_f32(reinterpret_cast<float32x4_t>(v)));
  }
};

}  // namespace

const Engine kNeon = make_engine<Neon, Level::neon>();

}  // namespace myops::cpu
