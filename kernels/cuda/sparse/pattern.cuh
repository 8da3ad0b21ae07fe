// What the sparse kernels share on the device: indices of either width, checked rows, lanes that add up.
//
// The width of indices is a flag and not a template parameter: a uniform branch on a load that a gather waits for
// anyway halves the number of kernels.
#pragma once
#include "../element.cuh"
#include "sparse.h"

namespace myops {

constexpr int kThreads = 256;     // of a block
constexpr int kBlocksAtOnce = 2;  // on a multiprocessor, at least; without it ptxas stops at 64 registers and spills
constexpr int kWarpSize = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

inline int64_t blocks_of(int64_t items, int64_t per_block) { return (items + per_block - 1) / per_block; }

// The 2^31 - 1 blocks of a grid are more than any memory has work for: no kernel here walks in steps of the grid.
inline dim3 grid_of(int64_t blocks) { return dim3(static_cast<unsigned>(blocks < 1 ? 1 : blocks)); }

__device__ __forceinline__ int64_t thread_in_grid() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

__device__ __forceinline__ void report(unsigned* findings, Status status) {
  if (findings == nullptr) __trap();
  atomicOr(findings, 1u << static_cast<int>(status));
}

// Whether another thread has said so already, as far as this one sees: an atomic for each would meet on one address.
template <class T>
__device__ __forceinline__ bool already_set(const T* flag) {
  return *static_cast<const volatile T*>(flag) != 0;
}

__device__ __forceinline__ int64_t load_index(const void* array, bool wide, int64_t i) {
  return wide ? static_cast<const int64_t*>(array)[i] : static_cast<const int32_t*>(array)[i];
}
__device__ __forceinline__ void store_index(void* array, bool wide, int64_t i, int64_t value) {
  if (wide)
    static_cast<int64_t*>(array)[i] = value;
  else
    static_cast<int32_t*>(array)[i] = static_cast<int32_t>(value);
}
__device__ __forceinline__ bool inside(int64_t index, int64_t size) {
  return static_cast<uint64_t>(index) < static_cast<uint64_t>(size);
}

struct Range {
  int64_t begin = 0, end = 0;

  __device__ __forceinline__ int64_t size() const { return end - begin; }
};

// Whether these can be the entries of row i. Else a finding.
__device__ __forceinline__ bool check_range(const Csr& A, int64_t i, const Range& r, unsigned* findings) {
  const bool starts = i != 0 || r.begin == 0, ends = i + 1 != A.rows || r.end == A.nnz;
  if (r.begin >= 0 && r.begin <= r.end && r.end <= A.nnz && starts && ends) return true;
  report(findings, Status::bad_crow);
  return false;
}
// The entries of row i, none where crow is wrong there.
__device__ __forceinline__ Range row_range(const Csr& A, int64_t i, unsigned* findings) {
  const Range r = {load_index(A.crow, A.wide, i), load_index(A.crow, A.wide, i + 1)};
  return check_range(A, i, r, findings) ? r : Range();
}

// How many of n sorted numbers are below `value`; at(i) reads number i.
template <class Index, class At>
__device__ __forceinline__ Index lower_bound(Index n, int64_t value, const At& at) {
  Index low = 0;
  while (n > 0) {
    const Index half = n / 2;
    if (at(low + half) < value) {
      low += half + 1;
      n -= half + 1;
    } else {
      n = half;
    }
  }
  return low;
}

// How many of n numbers are true for `below`, which is true for the first ones only: 32 are looked at in each step of a
// whole warp. At most n for any answers.
template <class Below>
__device__ __forceinline__ int64_t count_in_warp(int64_t n, const Below& below) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  int64_t low = 0;
  while (n > 0) {
    const int64_t step = (n + kWarpSize - 1) / kWarpSize, i = (lane + 1) * step - 1;
    const int whole = __popc(__ballot_sync(kAllLanes, i < n && below(low + i)));  // steps that are true to their end
    low += whole * step;
    n -= whole * step;
    if (n >= step) n = step - 1;
  }
  return low;
}

// The rows that end in the first `steps` steps of the path of rows.h; by a whole warp.
__device__ __forceinline__ int64_t rows_before(const Csr& A, int64_t steps) {
  return count_in_warp(A.rows, [&](int64_t i) { return load_index(A.crow, A.wide, i + 1) < steps - i; });
}

// The row of entry e, which is `from` or a later one; within [0, rows) for any crow where rows > 0. Entries are mostly
// walked in order, so the next two rows are tried before a search.
__device__ __forceinline__ int64_t row_of_entry(const Csr& A, int64_t e, int64_t from) {
  for (int i = 0; i < 2; ++i, ++from)
    if (from + 1 >= A.rows || load_index(A.crow, A.wide, from + 1) > e) return from;
  return from +
         lower_bound(A.rows - 1 - from, e + 1, [&](int64_t i) { return load_index(A.crow, A.wide, from + 1 + i); });
}

// Exchange between lanes whose numbers differ in the bits of `lanes`, for every type that is summed.
template <class T>
__device__ __forceinline__ T shuffle_xor(T x, int lanes) {
  return __shfl_xor_sync(kAllLanes, x, lanes);
}
template <class T>
__device__ __forceinline__ Complex<T> shuffle_xor(Complex<T> x, int lanes) {
  return {shuffle_xor(x.re, lanes), shuffle_xor(x.im, lanes)};
}

template <class T>
__device__ __forceinline__ T plus(T a, T b) {
  return a + b;
}
template <class T>
__device__ __forceinline__ Complex<T> plus(Complex<T> a, Complex<T> b) {
  return {a.re + b.re, a.im + b.im};
}

// N neighbours, as one access where the kernel was chosen for it.
template <int N, class T>
__device__ __forceinline__ Pack<T, N> load_neighbours(const T* address) {
  if constexpr (N == 1)
    return {{*address}};
  else
    return load_pack<Pack<T, N>>(address);
}

// Whether rows of N elements, b_row apart, are whole packs of `vector` elements at aligned addresses.
inline bool rows_are_packs(const void* data, int64_t row, int64_t N, int64_t vector, int64_t bytes) {
  return N % vector == 0 && row % vector == 0 && reinterpret_cast<uintptr_t>(data) % (vector * bytes) == 0;
}

}  // namespace myops
