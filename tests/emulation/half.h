// The toolkit's 16-bit float types and the conversions that the kernels use, bit by bit; and TF32, a float32 whose last
// 13 bits do not count.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

struct __nv_bfloat16 {
  uint16_t bits;
};
struct __half {
  uint16_t bits;
};

namespace emulation {

inline uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}
inline float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

// Bits of the nearest TF32, ties to even as on a Hopper; and what is left of a float where nobody has rounded it, of a
// NaN whose first bits are zeros an infinity.
inline uint32_t nearest_tf32(uint32_t bits) {
  return std::isfinite(float_of(bits)) ? (bits + 0xfff + (bits >> 13 & 1)) & 0xffffe000 : bits;
}
inline float first_bits_of_tf32(float x) { return float_of(bits_of(x) & 0xffffe000); }

}  // namespace emulation

inline float __bfloat162float(__nv_bfloat16 x) { return emulation::float_of(uint32_t(x.bits) << 16); }

inline __nv_bfloat16 __float2bfloat16_rn(float x) {
  const uint32_t bits = emulation::bits_of(x);
  if (std::isnan(x)) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

inline float __half2float(__half x) {
  const uint32_t sign = uint32_t(x.bits & 0x8000) << 16, exponent = x.bits >> 10 & 31, fraction = x.bits & 0x3ff;
  if (exponent == 31) return emulation::float_of(sign | 0x7f800000 | fraction << 13);
  const float magnitude =
      exponent == 0 ? std::ldexp(float(fraction), -24) : std::ldexp(float(fraction | 0x400), int(exponent) - 25);
  return sign ? -magnitude : magnitude;
}

inline __half __float2half_rn(float x) {
  const uint16_t sign = emulation::bits_of(x) >> 16 & 0x8000;
  if (std::isnan(x)) return {0x7fff};
  const float magnitude = std::fabs(x);
  if (magnitude >= 65520.0f) return {static_cast<uint16_t>(sign | 0x7c00)};  // halfway beyond the largest, to infinity
  if (magnitude == 0) return {sign};
  int exponent;
  std::frexp(magnitude, &exponent);                            // magnitude in [2^(exponent-1), 2^exponent)
  const int unit = exponent - 11 < -24 ? -24 : exponent - 11;  // exponent of the last bit
  const uint32_t steps = static_cast<uint32_t>(std::nearbyint(std::ldexp(magnitude, -unit)));  // to even; at most 2^11
  // steps * 2^unit: a subnormal where unit is -24 and steps < 2^10; the carry of 2^11 runs into the exponent by itself.
  return {static_cast<uint16_t>(sign | (steps + (uint32_t(unit + 24) << 10)))};
}
