// Sums over prefixes and stable sorts of numbers on the device, and checks of a whole pattern.
//
// A radix sort, 9 bits a pass: no comparison, no atomic that orders anything, so equal keys keep their order and every
// run gives the same permutation. One walk counts the digits of all passes, and each pass is one walk (look-back, see
// block.cuh): 20 bytes a key of 32 bits and pass.
#pragma once
#include "sparse.h"

namespace myops {

constexpr int kDigitBits = 9;

// How many bits numbers in [0, size) take.
inline int bits_for(int64_t size) {
  int bits = 0;
  while (bits < 63 && (int64_t(1) << bits) < size) ++bits;
  return bits;
}

// data[i] becomes the sum of what was in data[0 .. i); data has count + 1 elements, the last for the sum of all.
cudaError_t launch_exclusive_scan(int64_t* data, int64_t count, const SparseSession& session);

// Sorts by the lowest `bits` bits of the keys: to[x] = keys[order[x]]. `keys` is kept. Key: uint32_t or uint64_t, which
// order has to number the keys in.
template <class Key>
cudaError_t launch_sort(const Key* keys, int64_t count, int bits, Key* to, Key* order, const SparseSession& session);

// Looks at every index of a pattern and reports what is out of range.
cudaError_t launch_check(const Csr& A, const SparseSession& session);

// What a word of findings says.
Status status_of(unsigned findings);

}  // namespace myops
