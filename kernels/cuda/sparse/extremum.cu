// The largest (smallest) product of each row and column, and the entry that it came from, by rows.cuh.
//
// The first of equal ones wins; a NaN wins over everything, the first of several again. Stated of two candidates, so
// that lanes and segments may meet in any grouping.
#include "rows.cuh"

#include <type_traits>

namespace myops {
namespace {

// T: the type that is compared in. U: the one that is multiplied in; products of integers wrap to the stored type.
template <DType kType>
struct Compared {
  using T = typename Element<kType>::Acc;
  using U = T;
};
template <>
struct Compared<DType::i8> {
  using T = int32_t;
  using U = uint32_t;
};
template <>
struct Compared<DType::u8> : Compared<DType::i8> {};
template <>
struct Compared<DType::i16> : Compared<DType::i8> {};
template <>
struct Compared<DType::i32> : Compared<DType::i8> {};
template <>
struct Compared<DType::i64> {
  using T = int64_t;
  using U = uint64_t;
};

template <DType kType, int kNeighbours>
struct Best {
  using Problem = Extremum;
  using Stored = typename Element<kType>::Type;
  using T = typename Compared<kType>::T;
  using U = typename Compared<kType>::U;
  struct State {
    T value;
    int64_t entry;  // -1: none yet
  };
  static constexpr int kVector = kNeighbours;
  static constexpr bool kWraps = is_integral(kType);

  __device__ __forceinline__ static const void* permutation(const Extremum&) { return nullptr; }
  __device__ __forceinline__ static State start(const Extremum&) { return {T{}, -1}; }
  __device__ __forceinline__ static void add(const Extremum& p, State& best, int64_t entry, Stored v, Stored x) {
    T product = static_cast<T>(static_cast<U>(widen<T>(v)) * static_cast<U>(widen<T>(x)));
    if constexpr (kWraps) product = static_cast<T>(static_cast<Stored>(product));
    merge(p, best, {product, entry});
  }
  __device__ __forceinline__ static State exchange(State best, int lanes) {
    return {shuffle_xor(best.value, lanes), shuffle_xor(best.entry, lanes)};
  }
  __device__ __forceinline__ static void merge(const Extremum& p, State& best, State other) {
    if (other.entry < 0) return;
    const bool nan = best.value != best.value, other_nan = other.value != other.value;
    const bool beyond = other_nan ? !nan : p.minimum ? other.value < best.value : other.value > best.value;
    const bool level = nan ? other_nan : other.value == best.value;
    if (best.entry < 0 || beyond || (level && other.entry < best.entry)) best = other;
  }
  __device__ __forceinline__ static void finish(const Extremum& p, int64_t row, int64_t column, int64_t,
                                                const State (&best)[kVector]) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      const int64_t at = row * p.N + column + i;
      static_cast<Stored*>(p.D)[at] = narrow<Stored>(best[i].value);
      if (p.arg != nullptr) store_index(p.arg, p.A.wide, at, best[i].entry < 0 ? p.A.nnz : best[i].entry);
    }
  }
};

// At most four neighbours: a state is three or four registers.
template <DType kType>
cudaError_t launch_best(const Extremum& p, const SparseSession& session) {
  constexpr int kBytes = element_size(kType), kVector = kBytes >= 8 ? 2 : 4;
  if (rows_are_packs(p.B, p.b_row, p.N, kVector, kBytes)) return launch_rows<Best<kType, kVector>>(p, session);
  return launch_rows<Best<kType, 1>>(p, session);
}

}  // namespace

cudaError_t launch_extremum(const Extremum& p, const SparseSession& session) {
  switch (p.type) {
    case DType::f32: return launch_best<DType::f32>(p, session);
    case DType::f64: return launch_best<DType::f64>(p, session);
    case DType::bf16: return launch_best<DType::bf16>(p, session);
    case DType::f16: return launch_best<DType::f16>(p, session);
    case DType::i8: return launch_best<DType::i8>(p, session);
    case DType::u8: return launch_best<DType::u8>(p, session);
    case DType::i16: return launch_best<DType::i16>(p, session);
    case DType::i32: return launch_best<DType::i32>(p, session);
    case DType::i64: return launch_best<DType::i64>(p, session);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace myops
