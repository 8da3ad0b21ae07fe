// The micro-kernel: one tile of D as outer products, every operand in place or packed.
//
// Contract, for i in [0, MR), j in [0, n), n = (NV - 1) * lanes + last, 1 <= last <= lanes:
//
//   sum = start[i * start_row + j] + sum over k in [0, K) of a[i * a_row + k * a_k] * b[k * b_k + j]
//   d[i * d_row + j] = alpha * (before[i * before_row + j] + sum) + beta * c[i * c_row + j]
//
//   a         any strides, in stored elements; nothing but those MR x K elements is read
//   b         unit stride along j; of its last vector `read` columns are read, and nothing behind them
//   c         nullptr: not read. Otherwise unit stride along j, or one element for all of a row; may be d itself.
//   start     nullptr: 0. Where a chain of additions goes on from; whole vectors of it are read
//   shift     of a policy with kShift: what the sums of each row start from beside that
//   before    nullptr: not read. The sum of the chains before this one; may be d itself
//   K         0 is allowed: the sum is 0
//   sums      in the compute type, k ascending, one accumulator an element: the same bits for every MR, NV and position
//   aliasing  d may be c, nothing else
//
//   d, c      in the compute type, or in a shorter one that sums are rounded or cut to once (Out of the policy)
//   signs     of a policy with kComplexRows: not nullptr where rows 2 i and 2 i + 1 of sums become row i of d, and are
//             added to row i of before
//
// The policy C says what a step multiplies: scalars of T with a vector of T (Real), of shorter elements widened on the
// way (Real with another A or B), or groups of neighbours along k (PairDot, ByteDot, where k counts groups). A complex
// A is read in place as two real rows for each of its own (ComplexRows): even rows are real parts, odd ones the
// imaginary parts beside them.
//
// Bound: MR * NV multiply-adds a step at one 64-byte (two 32-byte) FMA a cycle, against NV loads of B and MR broadcasts
// of A at two a cycle; 24 FMAs to 10 loads for 6 x 4. Registers: MR * NV + NV + 1 of 32 (29), of 16 for 6 x 2 (15).
#pragma once
#include <type_traits>
#include <utility>

#include "isa/portable.h"
#include "plan.h"
#include "types.h"

namespace myops::cpu {

// One vector of T from storage S, converting; n of its lanes, the others 0.
template <class Isa, class T, class S>
inline typename Isa::template Vec<T> load_first(const S* p, int n) {
  if constexpr (std::is_same_v<T, S>)
    return Isa::template load_partial<T>(p, n);
  else if constexpr (std::is_same_v<S, bf16> || std::is_same_v<S, f16>)
    return Isa::widen_partial(p, n);
  else
    return Isa::template widen_integers_partial<T>(p, n);
}
// The same, which asks whether they are all of them: not in a loop, where a mask is cheaper.
template <class Isa, class T, class S>
inline typename Isa::template Vec<T> load_converted(const S* p, int n = Isa::template lanes<T>) {
  if (n != Isa::template lanes<T>) return load_first<Isa, T, S>(p, n);
  if constexpr (std::is_same_v<T, S>)
    return Isa::template load<T>(p);
  else if constexpr (std::is_same_v<S, bf16> || std::is_same_v<S, f16>)
    return Isa::widen(p);
  else
    return Isa::template widen_integers<T>(p);
}

// n lanes of v to storage S. Rounding: the level whose verb rounds to a 16-bit float.
template <class Isa, class T, class S, class Rounding = Isa>
inline auto narrowed(typename Isa::template Vec<T> v) {
  if constexpr (sizeof(S) == sizeof(T))
    return reinterpret_cast<typename Isa::template Vec<S>>(v);
  else if constexpr (std::is_same_v<S, bf16> || std::is_same_v<S, f16>)
    return Rounding::narrow(S{}, v);
  else
    return Isa::template narrow_integers<S, T>(v);
}
template <class Isa, class T, class S, class Rounding = Isa>
inline void store_first(S* p, typename Isa::template Vec<T> v, int n) {
  if constexpr (sizeof(S) == sizeof(T))
    Isa::template store_partial<S>(p, narrowed<Isa, T, S>(v), n);
  else
    Isa::store_first(p, narrowed<Isa, T, S, Rounding>(v), n);
}
// The same, which asks whether they are all of them.
template <class Isa, class T, class S, class Rounding = Isa>
inline void store_converted(S* p, typename Isa::template Vec<T> v, int n) {
  if (n != Isa::template lanes<T>) return store_first<Isa, T, S, Rounding>(p, v, n);
  const auto whole = narrowed<Isa, T, S, Rounding>(v);
  std::memcpy(p, &whole, sizeof(whole));
}

// Keeps subnormals, which the bfloat16 instruction does not: that type rounds in integer arithmetic on every level.
template <class Isa, class T, class S>
inline void store_exact(S* p, typename Isa::template Vec<T> v, int n) {
  store_converted<Isa, T, S, std::conditional_t<std::is_same_v<S, bf16>, Portable<Isa::kBytes>, Isa>>(p, v, n);
}

// Integers as wide as T, which shuffles name lanes by.
template <class Isa, class T>
using LaneIndex = typename Isa::template Vec<std::conditional_t<sizeof(T) == 4, int32_t, int64_t>>;

// (re, im) as (im, re), in every pair of lanes.
template <class Isa, class T, class Vec = typename Isa::template Vec<T>>
inline Vec swap_pairs(Vec v) {
  LaneIndex<Isa, T> swap;
  for (int l = 0; l < Isa::template lanes<T>; ++l) swap[l] = l ^ 1;
  return __builtin_shuffle(v, swap);
}

template <class Isa, class T, class Vec = typename Isa::template Vec<T>>
inline Vec alternating(T even, T odd) {
  Vec v;
  for (int l = 0; l < Isa::template lanes<T>; ++l) v[l] = l % 2 ? odd : even;
  return v;
}

struct NoSigns {
  template <class T>
  NoSigns(bool, bool, bool, T) {}
};

// How two real rows of sums, r of the real parts of a row of A and i of its imaginary parts, become a complex one:
//
//            plain            conj A           conj B            both
//   re   r.re - i.im      r.re + i.im      r.re + i.im      r.re - i.im
//   im   r.im + i.re      r.im - i.re     -r.im + i.re     -r.im - i.re
template <class Isa, class T>
struct ComplexSigns {
  using Vec = typename Isa::template Vec<T>;
  Vec of_r, of_i, of_c;  // what multiplies r, i with re and im exchanged, and C

  ComplexSigns(bool conj_a, bool conj_b, bool conj_c, T beta)
      : of_r(alternating<Isa, T>(1, conj_b ? -1 : 1)),
        of_i(alternating<Isa, T>(conj_a == conj_b ? -1 : 1, conj_a ? -1 : 1)),
        of_c(alternating<Isa, T>(beta, conj_c ? -beta : beta)) {}
  inline Vec combined(Vec r, Vec i) const { return r * of_r + swap_pairs<Isa, T>(i) * of_i; }
};

template <class T, class A, class B, class Out, class Signs>
struct TileArgs {
  int64_t k;
  const A* a;
  int64_t a_row, a_k;
  const B* b;
  int64_t b_k;
  int last, read;  // lanes of the last vector: of D; of B, of which packed panels hold all
  const Out* c;
  int64_t c_row, c_col;  // c_col: 1, or 0
  Out* d;
  int64_t d_row;
  T alpha, beta;
  const T* start;
  int64_t start_row;
  const T* before;
  int64_t before_row;
  const T* shift;
  const Signs* signs;  // nullptr: not complex, or the chain goes on. Else two rows of sums are one of before, c and d
  T* sums;             // of a matrix unit, not nullptr: the sums are left here, rows of start_row, and d is not written
  int rows;            // of the tile; an instance knows them, a matrix unit is told
  int64_t b_ahead, d_ahead;  // how far ahead of their use B and D are asked for, in elements; 0: they are near
};

// What a policy says of its tiles when they live in vector registers. kDepth: steps that a panel is padded to.
template <class Isa>
struct RegisterTile {
  static constexpr bool kMatrixUnit = false, kShift = false, kComplexRows = false;
  static constexpr int kRows = kMaxRows, kVectors = Isa::kPanelVectors, kDepth = 1;
  static constexpr int kRowsOfB = 1;  // that a step reads, `step` elements in all
  struct Session {};                  // lives as long as a thread computes tiles
  using Signs = NoSigns;
};

// AS: what A is stored as, converted where it is multiplied.
template <class Isa, class T, class S, class O = T, class AS = T, bool ComplexRows = false>
struct Real : RegisterTile<Isa> {
  using Scalar = T;
  using A = AS;
  using B = S;
  using Out = O;
  using Vec = typename Isa::template Vec<T>;
  using Operand = Vec;
  static constexpr bool kComplexRows = ComplexRows;
  using Signs = std::conditional_t<ComplexRows, ComplexSigns<Isa, T>, NoSigns>;
  static constexpr int kLanes = Isa::template lanes<T>;
  static inline Operand load(const S* p, int64_t) { return load_converted<Isa, T, S>(p); }
  static inline Operand load_last(const S* p, int64_t, int n) {
    if (!Isa::kMaskedLoads && __builtin_expect(n == kLanes, 1)) return load_converted<Isa, T, S>(p);
    return load_first<Isa, T, S>(p, n);
  }
  static constexpr int kGroup = 1;  // elements of A along k in a step
  static inline T scalar(const A* p) { return load_scalar<T>(*p); }
  static inline const A* row(const A* a, int i, int64_t a_row) {
    return ComplexRows ? a + i / 2 * a_row + i % 2 : a + i * a_row;
  }
  static inline Vec multiply_add(Vec acc, T a, Operand b) { return Isa::template add_product<T>(acc, a, b); }
};

// acc + the products of the two halves of each lane: of bfloat16, or of int16, exact modulo 2^32.
template <class Isa, class S, class Acc>
inline Acc dot_pairs(Acc acc, typename Isa::template Vec<uint32_t> a, typename Isa::template Vec<uint32_t> b) {
  if constexpr (std::is_same_v<S, bf16>)
    return Isa::dot_bf16(acc, a, b);
  else
    return Isa::dot_i16(acc, a, b);
}

// Rows of 16 or 8 bits as groups: in each lane of 32 bits a column, its first row lowest. load(r): a vector of row r.
template <class Isa, class Bits, class Load>
inline typename Isa::template Vec<uint32_t> group_rows(const Load& load) {
  typename Isa::template Vec<uint32_t> group = load(0);
#pragma GCC unroll 4
  for (int r = 1; r < 4 / static_cast<int>(sizeof(Bits)); ++r)
    group |= load(r) << (8 * static_cast<int>(sizeof(Bits)) * r);
  return group;
}
// n elements of a row, for groups of Bits; bytes that become 16-bit elements keep their sign. Masked: in a loop.
template <class Isa, class Bits, bool kMasked = false, class S>
inline typename Isa::template Vec<uint32_t> load_row(const S* p, int n = Isa::template lanes<uint32_t>) {
  using From = std::conditional_t<sizeof(S) < sizeof(Bits), S, Bits>;
  const From* const from = reinterpret_cast<const From*>(p);
  const auto v = kMasked ? load_first<Isa, uint32_t>(from, n) : load_converted<Isa, uint32_t>(from, n);
  if constexpr (std::is_signed_v<From>)
    return v & 0xffffu;
  else
    return v;
}
template <class Isa, class Bits, class S>
inline typename Isa::template Vec<uint32_t> load_group(const S* p, int64_t row) {
  return group_rows<Isa, Bits>([&](int r) { return load_row<Isa, Bits>(p + r * row); });
}

// Neighbours along k in the lanes of 32 bits that the dot products of an ISA multiply. InPlace: B is read as it lies,
// a group of its rows a step. Otherwise it has been packed. Stored: what B consists of; bytes become int16.
template <class Isa, class S, class T, class O, bool InPlace, class Stored = S>
struct Grouped : RegisterTile<Isa> {
  using Scalar = T;
  using Out = O;
  using A = S;  // at any address
  static constexpr bool kWidens = sizeof(Stored) < sizeof(S);
  using B = std::conditional_t<InPlace, Stored, std::conditional_t<kWidens, uint16_t, uint32_t>>;
  using Vec = typename Isa::template Vec<T>;
  using Operand = typename Isa::template Vec<uint32_t>;
  static constexpr int kGroup = 4 / sizeof(S), kLanes = Isa::template lanes<T>, kRowsOfB = InPlace ? kGroup : 1;
  using Bits = std::conditional_t<sizeof(S) == 1, uint8_t, uint16_t>;
  static inline Operand load(const B* p, int64_t step) {
    if constexpr (InPlace)
      return load_group<Isa, Bits>(p, step / kGroup);
    else if constexpr (kWidens)
      return reinterpret_cast<Operand>(load_converted<Isa, S>(reinterpret_cast<const Stored*>(p)));
    else
      return Isa::template load<uint32_t>(p);
  }
  static inline Operand load_last(const B* p, int64_t step, int n) {
    if constexpr (InPlace)
      return group_rows<Isa, Bits>(
          [&](int r) { return load_row<Isa, Bits, Isa::kMaskedLoads>(p + r * (step / kGroup), n); });
    else
      return load(p, step);  // packed panels are padded
  }
  static inline uint32_t scalar(const A* p) {
    uint32_t group;
    std::memcpy(&group, p, sizeof(group));
    return group;
  }
  static inline const A* row(const A* a, int i, int64_t a_row) { return a + i * a_row; }
};

template <class Isa, class S, class O, bool InPlace = false, class Stored = S>
struct PairDot : Grouped<Isa, S, std::conditional_t<std::is_same_v<S, bf16>, float, uint32_t>, O, InPlace, Stored> {
  using Base = typename PairDot::Grouped;
  using typename Base::Operand;
  using typename Base::Vec;
  static inline Vec multiply_add(Vec acc, uint32_t a, Operand b) { return dot_pairs<Isa, S>(acc, Operand{} + a, b); }
};

// Bytes by the dot product of unsigned with signed ones, of which B is made the other kind by 128 (kByteShift): int8
// adds 128 to it, so that sums start from -128 times the sum of the row of A, uint8 takes 128 away. Exact modulo 2^32.
constexpr uint32_t kByteShift = 0x80808080u;

template <class Isa, class S>
inline typename Isa::template Vec<uint32_t> dot_bytes(typename Isa::template Vec<uint32_t> acc,
                                                      typename Isa::template Vec<uint32_t> a,
                                                      typename Isa::template Vec<uint32_t> shifted_b) {
  return std::is_signed_v<S> ? Isa::dot_i8(acc, shifted_b, a) : Isa::dot_i8(acc, a, shifted_b);
}

template <class Isa, class S, bool InPlace = false>
struct ByteDot : Grouped<Isa, S, uint32_t, uint32_t, InPlace> {
  using Base = typename ByteDot::Grouped;
  using typename Base::B;
  using typename Base::Operand;
  static constexpr bool kShift = true;
  static constexpr uint32_t kShiftHere = InPlace ? kByteShift : 0;  // else it was done in packing
  static inline Operand load(const B* p, int64_t step) { return Base::load(p, step) ^ kShiftHere; }
  static inline Operand load_last(const B* p, int64_t step, int n) { return Base::load_last(p, step, n) ^ kShiftHere; }
  static inline Operand multiply_add(Operand acc, uint32_t a, Operand b) {
    return dot_bytes<Isa, S>(acc, Operand{} + a, b);
  }
};

template <class C>
using Tile = TileArgs<typename C::Scalar, typename C::A, typename C::B, typename C::Out, typename C::Signs>;

// n elements of C from those of vector j in row i on; a complex one is two.
template <class Isa, class C>
inline typename C::Vec load_c(const Tile<C>& t, int i, int j, int n) {
  using T = typename C::Scalar;
  const typename C::Out* const row = t.c + i * t.c_row;
  if (t.c_col != 0) return load_converted<Isa, T>(row + static_cast<int64_t>(j) * C::kLanes, n);
  if constexpr (C::kComplexRows) {
    LaneIndex<Isa, T> parts;
    for (int l = 0; l < C::kLanes; ++l) parts[l] = l % 2;
    return __builtin_shuffle(Isa::template load_partial<T>(row, 2), parts);
  } else {
    return load_scalar<T>(*row) - typename C::Vec{};  // a sum would turn -0 into 0
  }
}

// What multiplies C; of a conjugated one, vectors with both signs.
template <class C>
inline auto beta_of(const Tile<C>& t) {
  if constexpr (C::kComplexRows)
    return t.signs->of_c;
  else
    return t.beta;
}

// The n columns of vector j in row i of a tile: d = alpha * (before + sums) + beta * c.
template <class Isa, class C>
inline void write_sums(const Tile<C>& t, int i, int j, typename C::Vec sums, int n) {
  using T = typename C::Scalar;
  using Out = typename C::Out;
  const int64_t at = static_cast<int64_t>(j) * C::kLanes;
  if (t.before != nullptr) sums += load_converted<Isa, T, T>(t.before + i * t.before_row + at, n);
  typename C::Vec v = rounded(sums * t.alpha);
  if (t.c != nullptr) v += rounded(load_c<Isa, C>(t, i, j, n) * beta_of<C>(t));
  store_converted<Isa, T, Out>(t.d + i * t.d_row + at, v, n);
}

// The same of a whole tile, whose sums lie in memory: no instance for each size of it.
template <class Isa, class C>
[[gnu::noinline, gnu::noclone]] void write_tile(const Tile<C>& tile, int rows, int vectors,
                                                const typename C::Scalar* sums, int sums_row) {
  const Tile<C> t = tile;  // a copy, which what is stored cannot change
  for (int i = 0; i < rows; ++i, sums += sums_row)
    for (int j = 0; j < vectors; ++j)
      write_sums<Isa, C>(t, i, j, Isa::template load<typename C::Scalar>(sums + j * C::kLanes),
                         j < vectors - 1 ? C::kLanes : t.last);
}

// D and C lie in memory while the sums are formed: ask for their lines first, so that the end does not wait. Where
// few steps lie in between, asking is what waits, unless it is for a later tile.
template <class C, bool kWritten>
inline void prefetch_rows(const typename C::Out* first, int64_t row, int rows, int vectors) {
  constexpr int kLine = 64 / sizeof(typename C::Out);
  for (int i = 0; i < rows; ++i)
    for (int j = 0; j < vectors * C::kLanes; j += kLine) __builtin_prefetch(first + i * row + j, kWritten);
}

// Every line of a step of a panel: of each of its rows where the step lies in place. By its last byte, because a row of
// any pitch begins in the line where the panel before it ends. Rows of short elements that are one or two lines wait in
// L2: at pitches that are a multiple of 4096 bytes they would push each other out of L1 (Zen 5, AVX-512: 8x4096x4096
// bfloat16 1.25 to 1.05 ms, 8x8192x8192 5.0 to 4.0, float16 and int16 the same; float64 would lose 5 %, and half lines,
// which the next panel needs again, up to 15).
template <class C, int NV>
inline void prefetch_b(const typename C::B* b, int64_t step) {
  constexpr int kRows = C::kRowsOfB, kBytes = NV * C::kLanes * sizeof(typename C::B);
  constexpr int kLocality = sizeof(typename C::B) <= 2 && NV <= C::kVectors && kBytes >= 64 ? 2 : 3;
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 16
    for (int i = 0; i < kBytes; i += 64)
      __builtin_prefetch(
          reinterpret_cast<const char*>(b + r * (step / kRows)) + (i + 64 < kBytes ? i + 64 : kBytes) - 1, 0,
          kLocality);
}

template <class Isa, class C, int MR, int NV>
void microkernel(const Tile<C>& t) {
  using T = typename C::Scalar;
  using Vec = typename C::Vec;
  using Out = typename C::Out;
  constexpr int L = C::kLanes;
  Vec acc[MR][NV] = {};
  if (t.start != nullptr)
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 16
      for (int j = 0; j < NV; ++j) acc[i][j] = Isa::template load<T>(t.start + i * t.start_row + j * L);
  if constexpr (C::kShift)
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 16
      for (int j = 0; j < NV; ++j) acc[i][j] += t.shift[i];
  const typename C::B* b = t.b;
  const bool combines = C::kComplexRows && t.signs != nullptr;
  if (t.k >= 64 || t.d_ahead != 0)
    prefetch_rows<C, true>(t.d + (t.k >= 64 ? 0 : t.d_ahead), t.d_row, combines ? MR / 2 : MR, NV);
  if (t.k >= 64 && t.c != nullptr && t.c != t.d && t.c_col != 0)
    prefetch_rows<C, false>(t.c, t.c_row, combines ? MR / 2 : MR, NV);
  // The arithmetic of addresses competes with the multiply-adds for the ports of a core that has two of them. A pointer
  // for every three or four rows of A (of a complex one, pairs of rows) makes each row a base with an invariant index:
  // from 205 to 232 GFLOP/s of 249 on such a core.
  constexpr bool kNarrow = C::kVectors == 2;
  constexpr int kBases = (MR + 3) / 4, kRowsEach = kNarrow && !C::kComplexRows && (MR + 2) / 3 == kBases ? 3 : 4;
  const typename C::A* base[kBases];
#pragma GCC unroll 4
  for (int i = 0; i < kBases; ++i) base[i] = C::row(t.a, kRowsEach * i, t.a_row);
  const int64_t a_row = t.a_row, a_k = t.a_k, b_k = t.b_k;
  const int last = t.last, read = t.read;
  const int64_t ahead = t.b_ahead;
  const auto step = [&](const typename C::B* row, int columns) __attribute__((always_inline)) {
    typename C::Operand bv[NV];
#pragma GCC unroll 16
    for (int j = 0; j < NV - 1; ++j) bv[j] = C::load(row + j * L, b_k);
    bv[NV - 1] = C::load_last(row + (NV - 1) * L, b_k, columns);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
      const auto av = C::scalar(C::row(base[i / kRowsEach], i % kRowsEach, a_row));
#pragma GCC unroll 16
      for (int j = 0; j < NV; ++j) acc[i][j] = C::multiply_add(acc[i][j], av, bv[j]);
    }
  };
  int64_t k = t.k;
  // What is not a multiply-add is half of a step where vectors are short, and costs where the core issues four
  // instructions a cycle, or two threads share it: four steps for one check of what is asked for and read. The pointers
  // go on by additions, which the compiler would turn into as many indices as it has registers, and more. Of integers
  // it would add up the four products first, and keep the sums in memory.
  if constexpr (kNarrow && MR >= 4 && std::is_floating_point_v<T>)
    for (; k >= 4 && read == L; k -= 4) {
      if (ahead != 0)
#pragma GCC unroll 4
        for (int u = 0; u < 4; ++u) prefetch_b<C, NV>(b + u * b_k + ahead, b_k);
#pragma GCC unroll 4
      for (int u = 0; u < 4; ++u) {
        step(b, L);
        b = computed(b + b_k);
#pragma GCC unroll 4
        for (int i = 0; i < kBases; ++i) base[i] = computed(base[i] + a_k);
      }
    }
  for (; k > 0; --k) {
    if (ahead != 0) prefetch_b<C, NV>(b + ahead, b_k);
    step(b, read);
#pragma GCC unroll 4
    for (int i = 0; i < kBases; ++i) base[i] += a_k;
    b += b_k;
  }
  const auto write = [&](auto rows) __attribute__((always_inline)) {
    constexpr int kRows = decltype(rows)::value;
    const Tile<C> end = t;  // a copy, which what is stored cannot change
    constexpr bool kMasked = Isa::kMaskedLoads;
    const auto load_part = [&](const auto* row, int j) {
      return kMasked && j == NV - 1 ? load_first<Isa, T>(row + j * L, last) : load_converted<Isa, T>(row + j * L);
    };
    const auto finish = [&](auto adds) __attribute__((always_inline)) {
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 16
        for (int j = 0; j < NV; ++j) {
          Vec v = rounded(acc[i][j] * end.alpha);
          if constexpr (adds.value) v += rounded(load_part(end.c + i * end.c_row, j) * beta_of<C>(end));
          Out* const d = end.d + i * end.d_row + j * L;
          if (kMasked && j == NV - 1)
            store_first<Isa, T, Out>(d, v, last);
          else
            store_converted<Isa, T, Out>(d, v, L);
        }
    };
    if ((kMasked || last == L) && (end.c == nullptr || end.c_col != 0)) {  // asked once: sums may be short
      if (end.before != nullptr)
#pragma GCC unroll 16
        for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 16
          for (int j = 0; j < NV; ++j) acc[i][j] += load_part(end.before + i * end.before_row, j);
      return end.c == nullptr ? finish(std::false_type{}) : finish(std::true_type{});
    }
    if constexpr (NV == 1 && !kMasked) {  // results of few columns always end here, with few terms often
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) write_sums<Isa, C>(end, i, 0, acc[i][0], last);
    } else {  // from memory, so that there is no instance for each size
      alignas(64) T sums[kRows * NV * L];
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 16
        for (int j = 0; j < NV; ++j) Isa::template store<T>(sums + (i * NV + j) * L, acc[i][j]);
      write_tile<Isa, C>(end, kRows, NV, sums, NV * L);
    }
  };
  if constexpr (!C::kComplexRows) {
    write(std::integral_constant<int, MR>{});
  } else if (combines) {
#pragma GCC unroll 16
    for (int i = 0; i < MR / 2; ++i)
#pragma GCC unroll 16
      for (int j = 0; j < NV; ++j) acc[i][j] = t.signs->combined(acc[2 * i][j], acc[2 * i + 1][j]);
    write(std::integral_constant<int, MR / 2>{});
  } else {  // a chain that goes on: whole vectors, nothing else
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 16
      for (int j = 0; j < NV; ++j) Isa::template store<T>(t.d + i * t.d_row + j * L, acc[i][j]);
  }
}

template <class C>
using TileFn = void (*)(const Tile<C>&);

// Every tile as an instance: edges are ordinary. Index [rows - 1][vectors - 1]. Complex rows are pairs.
template <class Isa, class C, int MaxRows, int MaxVectors>
struct TileTable {
  static constexpr int kWide = wide_vectors(MaxVectors);
  TileFn<C> at[MaxRows][MaxVectors];
  TileFn<C> wide[kWide];  // a single row; up to MaxVectors the same as at[0]
  TileFn<C> tall;
  template <int R, int... V>
  constexpr void fill_row(std::integer_sequence<int, V...>) {
    if constexpr (!C::kComplexRows || R % 2 == 1) ((at[R][V] = &microkernel<Isa, C, R + 1, V + 1>), ...);
  }
  template <int... R>
  constexpr void fill(std::integer_sequence<int, R...>) {
    (fill_row<R>(std::make_integer_sequence<int, MaxVectors>{}), ...);
  }
  template <int... V>
  constexpr void fill_wide(std::integer_sequence<int, V...>) {
    if constexpr (!C::kComplexRows) ((wide[V] = &microkernel<Isa, C, 1, V + 1>), ...);
  }
  constexpr TileTable() : at{}, wide{}, tall(&microkernel<Isa, C, tall_rows(MaxVectors), 1>) {
    fill(std::make_integer_sequence<int, MaxRows>{});
    fill_wide(std::make_integer_sequence<int, kWide>{});
  }
};

// Dot products along k for x @ W.T: tile of MR rows of A and NC columns of B (rows of W), vectors along k.
//   d[i * d_row + j] = sum over k of a[i * a_row + k] * b[j * b_col + k]; partial sums lane by lane, then a fixed tree.
template <class Isa, class T, int H>
inline void add_halves(typename Isa::template Vec<T>& v) {
  LaneIndex<Isa, T> other;
  for (int i = 0; i < Isa::template lanes<T>; ++i) other[i] = i ^ H;
  v += __builtin_shuffle(v, other);
}
// Adds the lanes of each 1 / Parts of v, by halves, down to Sums lanes side by side.
template <class Isa, class T, int Parts, int Sums = 1>
inline void add_parts(typename Isa::template Vec<T>& v) {
  constexpr int L = Isa::template lanes<T> / Parts;
  if constexpr (L >= 16) add_halves<Isa, T, 8>(v);
  if constexpr (L >= 8) add_halves<Isa, T, 4>(v);
  if constexpr (L >= 4) add_halves<Isa, T, 2>(v);
  if constexpr (L >= 2 && Sums == 1) add_halves<Isa, T, 1>(v);
}
template <class Isa, class T>
inline T horizontal_sum(typename Isa::template Vec<T> v) {
  add_parts<Isa, T, 1>(v);
  return v[0];
}

// One stage of that for two vectors at once: blocks of 2 H lanes become H sums, those of v in the even blocks of H,
// those of w in the odd ones.
template <class Isa, class T, int H>
[[gnu::always_inline]] inline typename Isa::template Vec<T> add_halves_of(typename Isa::template Vec<T> v,
                                                                          typename Isa::template Vec<T> w) {
  constexpr int L = Isa::template lanes<T>;
  LaneIndex<Isa, T> low, high;
  for (int i = 0; i < L; ++i) {
    low[i] = (i & H) ? L + i - H : i;
    high[i] = low[i] + H;
  }
  return __builtin_shuffle(v, w, low) + __builtin_shuffle(v, w, high);
}

// All stages of P vectors, M pairs in the first: the lanes of v[j] end in the j-th of P parts of v[0].
template <class Isa, class T, int P, int M>
[[gnu::always_inline]] inline void add_stages(typename Isa::template Vec<T>* v) {
  if constexpr (M > 0) {
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) v[i] = add_halves_of<Isa, T, Isa::template lanes<T> / P * M>(v[i], v[i + M]);
    add_stages<Isa, T, P, M / 2>(v);
  }
}

// d[j] = the sum of the lanes of v[j], which this overwrites. As many vectors as there are lanes share their shuffles,
// two a vector where one alone takes four, in the same order: the same bits.
template <class Isa, class T, int N>
[[gnu::always_inline]] inline void store_lane_sums(typename Isa::template Vec<T>* v, T* d) {
  constexpr int L = Isa::template lanes<T>, kMost = N < L ? N : L;
  constexpr int P = kMost >= 16 ? 16 : kMost >= 8 ? 8 : kMost >= 4 ? 4 : kMost >= 2 ? 2 : 1;
  add_stages<Isa, T, P, P / 2>(v);
  add_parts<Isa, T, P>(v[0]);
  T sums[L];
  Isa::template store<T>(sums, v[0]);
  for (int j = 0; j < P; ++j) d[j] = sums[j * (L / P)];
  if constexpr (N > P) store_lane_sums<Isa, T, N - P>(v + P, d + P);
}

template <class Isa, class T, class S>
struct DotStep {  // one vector of T a step
  static constexpr int kStep = Isa::template lanes<T>;
  static constexpr bool kShift = false, kComplex = false;
  using Operand = typename Isa::template Vec<T>;
  static inline Operand load(const S* p, int n = kStep) { return load_converted<Isa, T, S>(p, n); }
  static inline Operand load_b(const S* p, int n = kStep) { return load(p, n); }
  static inline Operand multiply_add(Operand acc, Operand a, Operand b) { return acc + a * b; }
};

template <class Isa, class T>
struct ComplexDotStep : DotStep<Isa, T, T> {
  static constexpr bool kComplex = true;
};

// What several neighbours along k make of a 32-bit lane: pairs of bfloat16, quadruples of bytes.
template <class Isa, class S>
struct GroupStep {
  static constexpr bool kComplex = false;
  static constexpr int kStep = Isa::kBytes / sizeof(S);
  using Operand = typename Isa::template Vec<uint32_t>;
  static inline Operand load(const S* p, int n = kStep) {
    using Element = std::conditional_t<sizeof(S) == 1, uint8_t, uint16_t>;
    const Element* from = reinterpret_cast<const Element*>(p);
    return reinterpret_cast<Operand>(n == kStep ? Isa::template load<Element>(from)
                                                : Isa::template load_partial<Element>(from, n));
  }
};

// Pairs of S, or of bytes made int16.
template <class Isa, class S>
struct PairDotStep : GroupStep<Isa, S> {
  static constexpr bool kShift = false, kWidens = sizeof(S) == 1;
  static constexpr int kStep = Isa::kBytes / 2;
  using Operand = typename Isa::template Vec<uint32_t>;
  static inline Operand load(const S* p, int n = kStep) {
    if constexpr (kWidens)
      return reinterpret_cast<Operand>(load_converted<Isa, int16_t>(p, n));
    else
      return GroupStep<Isa, S>::load(p, n);
  }
  static inline Operand load_b(const S* p, int n = kStep) { return load(p, n); }
  template <class Acc>
  static inline Acc multiply_add(Acc acc, Operand a, Operand b) {
    return dot_pairs<Isa, std::conditional_t<kWidens, int16_t, S>>(acc, a, b);
  }
};

template <class Isa, class S>
struct ByteDotStep : GroupStep<Isa, S> {
  static constexpr bool kShift = true;
  using Operand = typename Isa::template Vec<uint32_t>;
  static inline Operand load_b(const S* p, int n = ByteDotStep::kStep) { return ByteDotStep::load(p, n) ^ kByteShift; }
  static inline Operand multiply_add(Operand acc, Operand a, Operand b) { return dot_bytes<Isa, S>(acc, a, b); }
};

// What the sums of a row of bytes start from, where B is shifted: see kByteShift.
template <class Isa, class S>
inline uint32_t shift_of_row(const S* a, int64_t k) {
  using Step = ByteDotStep<Isa, S>;
  const typename Step::Operand ones = typename Step::Operand{} + 0x01010101u;
  typename Step::Operand sums = {};
  int64_t p = 0;
  for (; p + Step::kStep <= k; p += Step::kStep) sums = dot_bytes<Isa, S>(sums, Step::load(a + p), ones);
  if (p < k) sums = dot_bytes<Isa, S>(sums, Step::load(a + p, static_cast<int>(k - p)), ones);
  return horizontal_sum<Isa, uint32_t>(sums) * (std::is_signed_v<S> ? -128u : 128u);
}

// How far ahead columns are asked for, in bytes; where one ends, at the start of the next NC. Of 256 to 4096 the best
// for float32 and bfloat16 alike. One column at a time is a single stream, which the hardware asks for faster alone
// (Zen 5, one thread: 41 GB/s, and 38 with hints at any distance). So are columns of kDotShortColumn, next to each
// other, whose hints are a third of the loads: of 1024 columns of 256 bytes 2 rows took a fifth to a third less time
// without them, of 512 bytes as much or a tenth more (Zen 3; not timed with vectors of 64 bytes).
constexpr int kDotBytesAhead = 1024, kDotShortColumn = 256;

template <class Isa, class T, class S, class Step, int MR, int NC>
void dot_kernel(int64_t k, const S* a, int64_t a_row, const S* b, int64_t b_col, T* d, int64_t d_row) {
  using Vec = typename Isa::template Vec<T>;
  constexpr int U = MR * NC >= 4 ? 1 : 4 / (MR * NC);  // chains along k: four hide the latency of a multiply-add
  constexpr int64_t kAhead = kDotBytesAhead / sizeof(S);
  const int64_t to_next = NC * b_col - k;
  Vec acc[U][MR][NC] = {};
  const auto step = [&](auto asks, int64_t p, Vec(&sums)[MR][NC]) {
    typename Step::Operand av[MR];
    const S* ahead = b + p + kAhead + (p + kAhead < k ? 0 : to_next);
#pragma GCC unroll 4
    for (int i = 0; i < MR; ++i) av[i] = Step::load(a + i * a_row + p);
#pragma GCC unroll 4
    for (int j = 0; j < NC; ++j) {
      typename Step::Operand bv = Step::load_b(b + j * b_col + p);
      if constexpr (MR > 1) bv = in_register(bv);
      if constexpr (asks.value) __builtin_prefetch(ahead + j * b_col);
#pragma GCC unroll 4
      for (int i = 0; i < MR; ++i) sums[i][j] = Step::multiply_add(sums[i][j], av[i], bv);
    }
  };
  int64_t p = 0;
  const auto walk = [&](auto asks) __attribute__((always_inline)) {
    for (; p + U * Step::kStep <= k; p += U * Step::kStep)
#pragma GCC unroll 4
      for (int u = 0; u < U; ++u) step(asks, p + u * Step::kStep, acc[u]);
    for (; p + Step::kStep <= k; p += Step::kStep) step(asks, p, acc[0]);
  };
  if (NC > 1 && Isa::kBytes < 64 && k * static_cast<int64_t>(sizeof(S)) <= kDotShortColumn)
    walk(std::false_type{});
  else
    walk(std::bool_constant<(NC > 1)>{});
  if (p < k) {
    const int n = static_cast<int>(k - p);
    typename Step::Operand av[MR];
#pragma GCC unroll 4
    for (int i = 0; i < MR; ++i) av[i] = Step::load(a + i * a_row + p, n);
#pragma GCC unroll 4
    for (int j = 0; j < NC; ++j) {
      const typename Step::Operand bv = Step::load_b(b + j * b_col + p, n);
#pragma GCC unroll 4
      for (int i = 0; i < MR; ++i) acc[0][i][j] = Step::multiply_add(acc[0][i][j], av[i], bv);
    }
  }
  Vec sums[MR * NC];
#pragma GCC unroll 16
  for (int i = 0; i < MR * NC; ++i) {
    sums[i] = acc[0][i / NC][i % NC];
#pragma GCC unroll 4
    for (int u = 1; u < U; ++u) sums[i] += acc[u][i / NC][i % NC];
  }
  T tile[MR * NC];
  store_lane_sums<Isa, T, MR * NC>(sums, tile);
  for (int i = 0; i < MR; ++i) std::memcpy(d + i * d_row, tile + i * NC, NC * sizeof(T));
}

// The same of complex elements, (re, im) side by side, k and strides in real ones: of each row the sums of its real
// parts times (re, im) and below them, in row d_row, those of its imaginary parts, as ComplexSigns combines them.
template <class Isa, class T, int MR, int NC>
void complex_dot_kernel(int64_t k, const T* a, int64_t a_row, const T* b, int64_t b_col, T* d, int64_t d_row) {
  using Vec = typename Isa::template Vec<T>;
  constexpr int L = Isa::template lanes<T>, U = MR * NC >= 2 ? 1 : 2;  // chains along k: four with the two of a product
  Vec same[U][MR][NC] = {}, cross[U][MR][NC] = {};                     // lanes: re re, im im; re im, im re
  const auto step = [&](int64_t p, int n, Vec(&straight)[MR][NC], Vec(&crossed)[MR][NC]) {
    Vec av[MR];
#pragma GCC unroll 4
    for (int i = 0; i < MR; ++i) av[i] = load_converted<Isa, T, T>(a + i * a_row + p, n);
#pragma GCC unroll 4
    for (int j = 0; j < NC; ++j) {
      const Vec bv = in_register(load_converted<Isa, T, T>(b + j * b_col + p, n)), swapped = swap_pairs<Isa, T>(bv);
#pragma GCC unroll 4
      for (int i = 0; i < MR; ++i) straight[i][j] += av[i] * bv, crossed[i][j] += av[i] * swapped;
    }
  };
  int64_t p = 0;
  for (; p + U * L <= k; p += U * L)
#pragma GCC unroll 2
    for (int u = 0; u < U; ++u) step(p + u * L, L, same[u], cross[u]);
  for (; p + L <= k; p += L) step(p, L, same[0], cross[0]);
  if (p < k) step(p, static_cast<int>(k - p), same[0], cross[0]);
  for (int i = 0; i < MR; ++i)
    for (int j = 0; j < NC; ++j) {
      Vec straight = same[0][i][j], crossed = cross[0][i][j];
      if constexpr (U == 2) straight += same[1][i][j], crossed += cross[1][i][j];
      add_parts<Isa, T, 1, 2>(straight), add_parts<Isa, T, 1, 2>(crossed);  // the even and the odd lanes
      T* const re = d + 2 * i * d_row + 2 * j;
      T* const im = re + d_row;
      re[0] = straight[0], re[1] = crossed[0];
      im[0] = crossed[1], im[1] = straight[1];
    }
}

}  // namespace myops::cpu
