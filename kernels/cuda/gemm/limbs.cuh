// Integers as bytes ("limbs") in base 256: what limb_tile.cuh, limb_pack.cu and limb_wgmma.cuh share.
#pragma once
#include "../element.cuh"

namespace myops {

// Byte i of word j goes to byte j of word i: of four elements, word i is limb i afterwards.
__device__ __forceinline__ void transpose_bytes(uint32_t (&w)[4]) {
  const uint32_t low0 = __byte_perm(w[0], w[1], 0x5140), high0 = __byte_perm(w[0], w[1], 0x7362);
  const uint32_t low1 = __byte_perm(w[2], w[3], 0x5140), high1 = __byte_perm(w[2], w[3], 0x7362);
  w[0] = __byte_perm(low0, low1, 0x5410), w[1] = __byte_perm(low0, low1, 0x7632);
  w[2] = __byte_perm(high0, high1, 0x5410), w[3] = __byte_perm(high0, high1, 0x7632);
}

// The limbs of four elements, a word each, as signed digits: x = sum of limb i * 256^i modulo 2^bits. A number from
// -128 to 127 has zeros above the lowest, which its bytes have only where it is not negative. Of 8 bits, x is its
// digit. any: has the bits of all limbs besides, each in its byte.
template <class In>
__device__ __forceinline__ void split_limbs(const In (&element)[4], uint32_t (&limb)[sizeof(In)], In* any) {
  static_assert(std::is_unsigned_v<In>, "sums wrap");
  constexpr In kHalves = static_cast<In>(0x8080808080808080);
  In digits[4];
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    digits[e] = static_cast<In>(element[e] + kHalves) ^ kHalves;
    *any |= digits[e];
  }
#pragma unroll
  for (int half = 0; half < (sizeof(In) > 4 ? 2 : 1); ++half) {
    uint32_t w[4];
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      if constexpr (sizeof(In) > 4)
        w[e] = static_cast<uint32_t>(digits[e] >> 32 * half);
      else
        w[e] = digits[e];
    }
    transpose_bytes(w);
#pragma unroll
    for (int j = 0; j < 4 && 4 * half + j < static_cast<int>(sizeof(In)); ++j) limb[4 * half + j] = w[j];
  }
}

}  // namespace myops
