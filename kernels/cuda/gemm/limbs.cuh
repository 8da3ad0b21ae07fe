// Integers as their bytes ("limbs") in base 256: what limb_tile.cuh and limb_pack.cu share.
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

// The limbs of four elements, a word each.
template <class In>
__device__ __forceinline__ void split_limbs(const In (&element)[4], uint32_t (&limb)[sizeof(In)]) {
#pragma unroll
  for (int half = 0; half < (sizeof(In) > 4 ? 2 : 1); ++half) {
    uint32_t w[4];
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      if constexpr (sizeof(In) > 4)
        w[e] = static_cast<uint32_t>(static_cast<uint64_t>(element[e]) >> 32 * half);
      else
        w[e] = static_cast<uint32_t>(element[e]);
    }
    transpose_bytes(w);
#pragma unroll
    for (int j = 0; j < 4 && 4 * half + j < static_cast<int>(sizeof(In)); ++j) limb[4 * half + j] = w[j];
  }
}

}  // namespace myops
