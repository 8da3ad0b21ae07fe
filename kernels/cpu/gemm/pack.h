// Packing: operands copied, converted and rearranged so that the micro-kernel reads them front to back.
//
//   B panel   [k][w]: w columns (whole vectors, padded with zeros) of one k after the other
//   B pairs   [k / 2][w][2]: two neighbouring k of a column side by side, for bfloat16 and int16, and of bytes that are
//             made int16 by loads; odd K padded
//   B quads   [k / 4][w][4]: four of them, for bytes, shifted for dot products in registers or as they are
//   A rows    [m][k]: converted rows, k contiguous, padded where a step takes several k
//
// Complex B needs nothing of its own: interleaved (re, im) columns are real columns. Packing moves such an element as
// one unit, a double for complex64.
#pragma once
#include "microkernel.h"

namespace myops::cpu {

// An n x n transpose of 32- or 64-bit lanes in log2(n) stages of two-source shuffles, of which the first Rows rows are
// wanted (a power of two). Stage h swaps blocks of h lanes.
template <class Isa, class E, int H, int Rows>
[[gnu::always_inline]] inline void transpose_stage(typename Isa::template Vec<E>* r) {
  constexpr int L = Isa::template lanes<E>;
  LaneIndex<Isa, E> low, high;
  for (int j = 0; j < L; ++j) {
    low[j] = (j & H) ? L + j - H : j;
    high[j] = (j & H) ? L + j : j + H;
  }
#pragma GCC unroll 16
  for (int i = 0; i < (Rows > H ? Rows : H); ++i) {
    if (i & H) continue;
    const auto a = r[i], b = r[i + H];
    r[i] = __builtin_shuffle(a, b, low);
    if constexpr (Rows > H) r[i + H] = __builtin_shuffle(a, b, high);
  }
}
template <class Isa, class E, int Rows = Isa::template lanes<E>>
[[gnu::always_inline]] inline void transpose(typename Isa::template Vec<E>* r) {
  constexpr int L = Isa::template lanes<E>;
  if constexpr (L >= 16) transpose_stage<Isa, E, 8, Rows>(r);
  if constexpr (L >= 8) transpose_stage<Isa, E, 4, Rows>(r);
  if constexpr (L >= 4) transpose_stage<Isa, E, 2, Rows>(r);
  transpose_stage<Isa, E, 1, Rows>(r);
}

// Up to L vectors of up to L elements, turned: load(r, columns) is one of `rows`, the first `columns` elements of a
// vector, and store(c, v, rows) takes one of `columns`, whose lanes from `rows` on are zero. Counts that are known keep
// the block in registers: of whole blocks, and of a few columns, of which no others are made.
template <class Isa, class E, class Load, class Store>
[[gnu::always_inline]] inline void turn_block(int rows, int columns, const Load& load, const Store& store) {
  constexpr int L = Isa::template lanes<E>, kFew = 4, kMade = L < kFew ? L : kFew;
  typename Isa::template Vec<E> block[L];
  if (rows == L && columns == L) {
#pragma GCC unroll 16
    for (int r = 0; r < L; ++r) block[r] = load(r, L);
    transpose<Isa, E>(block);
#pragma GCC unroll 16
    for (int c = 0; c < L; ++c) store(c, block[c], L);
  } else if (L > kFew && rows == L && columns <= kFew) {
#pragma GCC unroll 16
    for (int r = 0; r < L; ++r) block[r] = load(r, columns);
    transpose<Isa, E, kMade>(block);
#pragma GCC unroll 4
    for (int c = 0; c < kFew; ++c)
      if (c < columns) store(c, block[c], L);
  } else {
    for (int r = 0; r < L; ++r) block[r] = r < rows ? load(r, columns) : typename Isa::template Vec<E>{};
    transpose<Isa, E>(block);
    for (int c = 0; c < columns; ++c) store(c, block[c], rows);
  }
}

// Of rows that are read side by side, how far ahead each is asked for: the hardware follows fewer streams.
constexpr int kPrefetchBytes = 512;

// n columns of k elements as rows. load(j, p, rows): a vector of column j, elements [p, p + rows), behind which it is
// zero. store(p, j, v): columns [j, j + lanes) of row p, those of [n, width) zero. Both are copies, which what is
// stored cannot change.
template <class Isa, class E, class Load, class Store>
inline void turn_columns(int64_t n, int64_t k, int64_t width, Load load, Store store) {
  constexpr int64_t L = Isa::template lanes<E>;
  for (int64_t j0 = 0; j0 < width; j0 += L)
    for (int64_t p = 0; p < k; p += L)
      turn_block<Isa, E>(
          static_cast<int>(max64(0, min64(L, n - j0))), static_cast<int>(min64(L, k - p)),
          [&](int j, int rows) { return load(j0 + j, p, rows); },
          [&](int r, typename Isa::template Vec<E> v, int) { store(p + r, j0, v); });
}
// To dst[k * width + n].
template <class Isa, class E, class Load>
inline void turn_columns(int64_t n, int64_t k, int64_t width, E* dst, Load load) {
  turn_columns<Isa, E>(n, k, width, load, [=](int64_t p, int64_t j, typename Isa::template Vec<E> v) {
    Isa::template store<E>(dst + p * width + j, v);
  });
}

// Every second element from p on, as the real parts of complex numbers lie: of the second vector the odd lanes, so that
// nothing behind the last element is read.
template <class Isa, class E>
inline typename Isa::template Vec<E> load_every_second(const E* p) {
  constexpr int L = Isa::template lanes<E>;
  LaneIndex<Isa, E> lanes;
  for (int l = 0; l < L; ++l) lanes[l] = l < L / 2 ? 2 * l : 2 * l + 1;
  return __builtin_shuffle(Isa::template load<E>(p), Isa::template load<E>(p + L - 1), lanes);
}

// The first n of them.
template <class Isa, class E>
inline typename Isa::template Vec<E> load_every_second(const E* p, int n) {
  constexpr int L = Isa::template lanes<E>;
  if (n == L) return load_every_second<Isa>(p);
  E first[L] = {};
  for (int l = 0; l < n; ++l) first[l] = p[2 * l];
  return Isa::template load<E>(first);
}

// n elements of a row, `stride` apart.
template <class Isa, class E, class S>
inline void copy_spread(const S* src, int64_t stride, int64_t n, E* dst) {
  constexpr int L = Isa::template lanes<E>;
  int64_t j = 0;
  if constexpr (std::is_same_v<E, S> && sizeof(E) >= 4)
    if (stride == 2)
      for (; j + L <= n; j += L) Isa::template store<E>(dst + j, load_every_second<Isa>(src + 2 * j));
  for (; j < n; ++j) dst[j] = load_scalar<E>(src[j * stride]);
}

// B[k, n] at src[k * k_stride + n * n_stride] to dst[k * width + n], columns [n, width) zero.
template <class Isa, class E, class S>
void pack_b_panel(const S* src, int64_t k_stride, int64_t n_stride, int64_t k, int64_t n, int64_t width, E* dst) {
  constexpr int L = Isa::template lanes<E>;
  if (n_stride == 1) {
    for (int64_t p = 0; p < k; ++p) {
      const S* row = src + p * k_stride;
      E* out = dst + p * width;
      int64_t j = 0;
      for (; j + L <= n; j += L) Isa::template store<E>(out + j, load_converted<Isa, E, S>(row + j, L));
      if (j < n) {
        Isa::template store<E>(out + j, load_converted<Isa, E, S>(row + j, static_cast<int>(n - j)));
        j += L;
      }
      for (; j < width; ++j) out[j] = E{};
    }
    return;
  }
  if constexpr (sizeof(E) >= 4)
    if (k_stride == 1) {
      turn_columns<Isa, E>(n, k, width, dst, [=](int64_t j, int64_t p, int rows) {
        const S* from = src + j * n_stride + p;
        if (rows == L) __builtin_prefetch(from + kPrefetchBytes / sizeof(S));
        return load_converted<Isa, E, S>(from, rows);
      });
      return;
    }
  if constexpr (std::is_same_v<E, S> && sizeof(E) >= 4)
    if (k_stride == 2 && n_stride != 2) {
      turn_columns<Isa, E>(n, k, width, dst, [=](int64_t j, int64_t p, int rows) {
        return load_every_second<Isa>(src + j * n_stride + 2 * p, rows);
      });
      return;
    }
  for (int64_t p = 0; p < k; ++p) {
    copy_spread<Isa>(src + p * k_stride, n_stride, n, dst + p * width);
    for (int64_t j = n; j < width; ++j) dst[p * width + j] = E{};
  }
}

// The same for elements that no vector lane holds (complex128).
template <class E>
static inline void pack_b_elements(const E* src, int64_t k_stride, int64_t n_stride, int64_t k, int64_t n,
                                   int64_t width, E* dst) {
  for (int64_t p = 0; p < k; ++p)
    for (int64_t j = 0; j < width; ++j) dst[p * width + j] = j < n ? src[p * k_stride + j * n_stride] : E{};
}

// The next groups of a column of 16- or 8-bit elements, of which `left` are left: a vector of them, the rest zero.
template <class Isa, class Bits>
inline typename Isa::template Vec<uint32_t> load_groups(const Bits* from, int64_t left) {
  using Groups = GroupStep<Isa, Bits>;
  if (left < Groups::kStep) return Groups::load(from, static_cast<int>(left));
  __builtin_prefetch(from + kPrefetchBytes / sizeof(Bits));
  return Groups::load(from);
}

// Pairs of 16-bit elements. dst[(k / 2) * width + n] holds B[k, n] in its low and B[k + 1, n] in its high half.
template <class Isa>
void pack_b_pairs(const uint16_t* src, int64_t k_stride, int64_t n_stride, int64_t k, int64_t n, int64_t width,
                  uint32_t* dst) {
  constexpr int L = Isa::template lanes<uint32_t>;
  if (k_stride == 1) {  // a pair is a 32-bit element already: transpose those
    turn_columns<Isa, uint32_t>(n, (k + 1) / 2, width, dst, [=](int64_t j, int64_t p, int) {
      return load_groups<Isa>(src + j * n_stride + 2 * p, k - 2 * p);
    });
    return;
  }
  // Asked for ahead in its row, unless rows share the sets of L1: then what was asked for is gone before it is used.
  // 16x3072x768 from memory went from 0.60 to 0.50 ms, 16x4096x4096 from 3.9 to 4.5.
  const int64_t ahead = k_stride * static_cast<int64_t>(sizeof(uint16_t)) % 4096 == 0 ? 0 : 256 / sizeof(uint16_t);
  for (int64_t p = 0; p < k; p += 2) {
    const uint16_t* even = src + p * k_stride;
    const uint16_t* odd = even + k_stride;
    uint32_t* out = dst + (p / 2) * width;
    const bool whole = p + 1 < k;
    int64_t j = 0;
    if (n_stride == 1)
      for (; j + L <= n; j += L) {
        __builtin_prefetch(even + j + ahead);
        __builtin_prefetch(even + k_stride + j + ahead);
        Isa::template store<uint32_t>(
            out + j, whole ? load_group<Isa, uint16_t>(even + j, k_stride) : load_converted<Isa, uint32_t>(even + j));
      }
    for (; j < width; ++j)
      out[j] = j >= n ? 0u : even[j * n_stride] | (whole ? static_cast<uint32_t>(odd[j * n_stride]) << 16 : 0u);
  }
}

// Pairs of bytes, which the loads widen: dst[(k / 2) * width + n] holds B[k, n] in its low and B[k + 1, n] in its high
// byte.
template <class Isa>
void pack_b_byte_pairs(const uint8_t* src, int64_t k_stride, int64_t n_stride, int64_t k, int64_t n, int64_t width,
                       uint16_t* dst) {
  if (k_stride == 1 && n_stride != 1) {  // two pairs of a column are a 32-bit element: transpose those
    constexpr int L = Isa::template lanes<uint32_t>;
    const auto load = [=](int64_t j, int64_t p, int) {
      return load_groups<Isa>(src + j * n_stride + 4 * p, k - 4 * p);
    };
    turn_columns<Isa, uint32_t>(n, (k + 3) / 4, width, load, [=](int64_t p, int64_t j, auto pairs) {
      uint16_t* const out = dst + 2 * p * width + j;
      store_converted<Isa, uint32_t, uint16_t>(out, pairs, L);
      if (4 * p + 2 < k) store_converted<Isa, uint32_t, uint16_t>(out + width, pairs >> 16, L);
    });
    return;
  }
  constexpr int L = Isa::template lanes<uint16_t>;
  for (int64_t p = 0; p < k; p += 2) {
    const uint8_t* even = src + p * k_stride;
    const uint8_t* odd = even + k_stride;
    uint16_t* out = dst + (p / 2) * width;
    const bool whole = p + 1 < k;
    int64_t j = 0;
    if (n_stride == 1 && whole)
      for (; j + L <= n; j += L)
        Isa::template store<uint16_t>(out + j, Isa::template widen_integers<uint16_t>(even + j) |
                                                   (Isa::template widen_integers<uint16_t>(odd + j) << 8));
    for (; j < width; ++j)
      out[j] = static_cast<uint16_t>(j >= n ? 0 : even[j * n_stride] | (whole ? odd[j * n_stride] << 8 : 0));
  }
}

// Quadruples of bytes: dst[(k / 4) * width + n] holds B[k .. k + 3, n], low byte first, odd ends zero. Shift: then
// every byte is shifted (kByteShift).
template <class Isa, bool Shift>
void pack_b_quads(const int8_t* src, int64_t k_stride, int64_t n_stride, int64_t k, int64_t n, int64_t width,
                  uint32_t* dst) {
  constexpr int L = Isa::template lanes<uint32_t>;
  constexpr uint32_t kFlip = Shift ? kByteShift : 0;
  const uint8_t* const bytes = reinterpret_cast<const uint8_t*>(src);
  if (k_stride == 1 && n_stride != 1) {  // four bytes of a column are a 32-bit element already: transpose those
    turn_columns<Isa, uint32_t>(n, (k + 3) / 4, width, dst, [=](int64_t j, int64_t p, int) {
      return load_groups<Isa>(bytes + j * n_stride + 4 * p, k - 4 * p) ^ kFlip;
    });
    return;
  }
  for (int64_t j0 = 0; j0 < width; j0 += L) {
    const int cols = static_cast<int>(n - j0 < L ? (n > j0 ? n - j0 : 0) : L);
    for (int64_t p = 0; p < k; p += 4) {
      const uint8_t* row = bytes + p * k_stride + j0 * n_stride;
      int64_t row_stride = k_stride;
      uint8_t quads[4 * L] = {};
      if (n_stride != 1 || cols < L || p + 4 > k) {
        for (int q = 0; q < 4 && p + q < k; ++q)
          for (int j = 0; j < cols; ++j) quads[q * L + j] = row[q * k_stride + j * n_stride];
        row = quads, row_stride = L;
      }
      Isa::template store<uint32_t>(dst + p / 4 * width + j0, load_group<Isa, uint8_t>(row, row_stride) ^ kFlip);
    }
  }
}

// A[m, k] at src[m * m_stride + k * k_stride] to dst[m * width + k], converted. Of a transposed A, blocks of L x L are
// turned in registers, all of L rows of memory before the next: long runs of each, and those to come are asked for.
template <class Isa, class T, class S>
void pack_a_rows(const S* src, int64_t m_stride, int64_t k_stride, int64_t m, int64_t k, int64_t width, T* dst) {
  constexpr int L = Isa::template lanes<T>;
  if (k == 1) k_stride = 1;  // it means nothing
  const auto turn = [=](const auto& load) {
    for (int64_t p = 0; p < k; p += L)
      for (int64_t i0 = 0; i0 < m; i0 += L) {
        const S* const first = src + i0 * m_stride + p * k_stride;
        T* const to = dst + i0 * width + p;
        turn_block<Isa, T>(
            static_cast<int>(min64(L, k - p)), static_cast<int>(min64(L, m - i0)),
            [&](int r, int rows) {
              const S* const from = first + r * k_stride;
              __builtin_prefetch(from + L * k_stride);
              return load(from, rows);
            },
            [&](int i, typename Isa::template Vec<T> v, int steps) {
              store_converted<Isa, T, T>(to + i * width, v, steps);
            });
      }
  };
  if (m_stride == 1 && k_stride != 1)
    return turn([](const S* from, int rows) { return load_converted<Isa, T, S>(from, rows); });
  if constexpr (std::is_same_v<T, S>)
    if (m_stride == 2 && k_stride > 2)
      return turn([](const S* from, int rows) { return load_every_second<Isa>(from, rows); });
  if (k_stride == 1 && m_stride == width && k == width) k *= m, m = 1;  // rows side by side, as they are to lie
  for (int64_t i = 0; i < m; ++i) {
    const S* row = src + i * m_stride;
    T* out = dst + i * width;
    if (k_stride == 1)
      for (int64_t p = 0; p < k; p += L)  // what lies behind the last element is the padding between rows
        Isa::template store<T>(out + p, load_converted<Isa, T, S>(row + p, static_cast<int>(k - p < L ? k - p : L)));
    else
      copy_spread<Isa>(row, k_stride, k, out);
  }
}

// The same of complex elements, (re, im) side by side, strides and width in complex ones; complex64 moves as doubles.
template <class Isa, class T>
void pack_a_complex(const T* src, int64_t m_stride, int64_t k_stride, int64_t m, int64_t k, int64_t width, T* dst) {
  if constexpr (sizeof(T) == 4) {
    pack_a_rows<Isa>(reinterpret_cast<const double*>(src), m_stride, k_stride, m, k, width,
                     reinterpret_cast<double*>(dst));
  } else {
    const auto* const from = reinterpret_cast<const Complex<T>*>(src);
    auto* const to = reinterpret_cast<Complex<T>*>(dst);
    for (int64_t p = 0; p < k; ++p)
      for (int64_t i = 0; i < m; ++i) to[i * width + p] = from[i * m_stride + p * k_stride];
  }
}

// A to rows whose length is a multiple of `group`, padded with zeros, as elements E: S itself, or int16 of bytes. Of a
// transposed A, groups of 32 bits are transposed, like those of B.
template <class Isa, class E, class S>
void pack_a_groups(const S* src, int64_t m_stride, int64_t k_stride, int64_t m, int64_t k, int64_t group, int64_t width,
                   E* dst) {
  constexpr int L = Isa::template lanes<uint32_t>, G = 4 / sizeof(E);
  using Bits = std::conditional_t<sizeof(E) == 1, uint8_t, uint16_t>;
  using Vec = typename Isa::template Vec<uint32_t>;
  const int64_t padded = (k + group - 1) / group * group;
  if (m_stride == 1 && k_stride != 1) {
    const int64_t groups = (k + G - 1) / G;
    for (int64_t p = 0; p < groups; p += L) {
      const int used = static_cast<int>(min64(L, groups - p));
      const bool whole = (p + L) * G <= k;
      for (int64_t i0 = 0; i0 < m; i0 += L) {
        const int rows = static_cast<int>(min64(L, m - i0));
        const S* const from = src + i0 + p * G * k_stride;
        E* const to = dst + i0 * width + p * G;
        const auto load = [&](int r, int n) {
          const S* const first = from + r * G * k_stride;
          if (n == L && (whole || (used == L && r < L - 1))) {
#pragma GCC unroll 4
            for (int q = 0; q < G; ++q) __builtin_prefetch(first + (L * G + q) * k_stride);
            return load_group<Isa, Bits>(first, k_stride);
          }
          return group_rows<Isa, Bits>(
              [&](int q) { return (p + r) * G + q < k ? load_row<Isa, Bits>(first + q * k_stride, n) : Vec{}; });
        };
        if (used <= 2) {  // fewer stores than shuffles
          for (int q = 0; q < used; ++q) {
            const Vec group = load(q, rows);
            for (int r = 0; r < rows; ++r)
              std::memcpy(to + r * width + q * G, &reinterpret_cast<const uint32_t*>(&group)[r], 4);
          }
          continue;
        }
        turn_block<Isa, uint32_t>(used, rows, load, [&](int r, Vec v, int n) {
          store_converted<Isa, uint32_t, uint32_t>(reinterpret_cast<uint32_t*>(to + r * width), v, n);
        });
      }
    }
    if (padded > groups * G)
      for (int64_t i = 0; i < m; ++i) std::memset(dst + i * width + groups * G, 0, (padded - groups * G) * sizeof(E));
    return;
  }
  for (int64_t i = 0; i < m; ++i) {
    E* row = dst + i * width;
    const S* from = src + i * m_stride;
    if (k_stride != 1) {
      for (int64_t p = 0; p < k; ++p) row[p] = E(from[p * k_stride]);
      std::memset(row + k, 0, (padded - k) * sizeof(E));
    } else {  // moved as they are, or widened; what lies behind the last element is the padding of the row
      using To = std::conditional_t<std::is_same_v<E, S>, Bits, E>;
      using From = std::conditional_t<std::is_same_v<E, S>, Bits, S>;
      constexpr int kStep = Isa::template lanes<To>;
      for (int64_t p = 0; p < k; p += kStep)
        Isa::template store<To>(reinterpret_cast<To*>(row + p),
                                load_converted<Isa, To>(reinterpret_cast<const From*>(from + p),
                                                        static_cast<int>(k - p < kStep ? k - p : kStep)));
    }
  }
}

}  // namespace myops::cpu
