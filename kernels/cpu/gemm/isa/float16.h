// One float16 (binary16) to and from float32, rounded to nearest, ties to even: an instruction where there is one.
#pragma once
#include <cstdint>
#include <cstring>

#ifdef __F16C__
#include <immintrin.h>
#endif

namespace myops::cpu {

template <class To, class From>
static inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast needs equal sizes");
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

#ifdef __F16C__

static inline float binary16_to_float(uint16_t bits) { return _cvtsh_ss(bits); }
static inline uint16_t float_to_binary16(float v) { return _cvtss_sh(v, _MM_FROUND_TO_NEAREST_INT); }

#else

// Without special cases: shift the fields into place, then rescale by 2^112; what was an infinity or NaN has the
// largest exponent and gets its upper bits back.
static inline float binary16_to_float(uint16_t bits) {
  const uint32_t magnitude = (bits & 0x7fffu) << 13;
  uint32_t rescaled = bit_cast<uint32_t>(bit_cast<float>(magnitude) * bit_cast<float>(0x77800000u));
  if (magnitude >= 0x0f800000u) rescaled |= 0x7f800000u | (magnitude & 0x007fffffu);
  return bit_cast<float>(rescaled | (static_cast<uint32_t>(bits & 0x8000u) << 16));
}

static inline uint16_t float_to_binary16(float v) {
  const uint32_t bits = bit_cast<uint32_t>(v), sign = (bits >> 16) & 0x8000u;
  uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x47800000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 2^16 and above: infinity
  if (magnitude < 0x38800000u) {  // below 2^-14: subnormal; adding 0.5 lets the FPU do the rounding
    const float shifted = bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  magnitude += 0xfffu + ((magnitude >> 13) & 1u);  // may carry into infinity, as it should
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000u) >> 13));
}

#endif

}  // namespace myops::cpu
