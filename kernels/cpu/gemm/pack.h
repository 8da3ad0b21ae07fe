// Packing: operands copied, converted and rearranged so that the micro-kernel reads them front to back.
//
//   B panel   [k][w]: w columns (whole vectors, padded with zeros) of one k after the other
//   B pairs   [k / 2][w][2]: two neighbouring k of a column side by side, for bfloat16 and int16; odd K padded
//   B quads   [k / 4][w][4]: four of them, for bytes, shifted for dot products in registers or as they are
//   A rows    [m][k]: converted rows, k contiguous, padded where a step takes several k
//
// Complex B needs nothing of its own: interleaved (re, im) columns are real columns. Packing moves such an element as
// one unit, a double for complex64.
#pragma once
#include "microkernel.h"

namespace myops::cpu {

// An n x n transpose of 32- or 64-bit lanes in log2(n) stages of two-source shuffles; stage h swaps blocks of h lanes.
template <class Isa, class E, int H>
inline void transpose_stage(typename Isa::template Vec<E>* r) {
  using Vec = typename Isa::template Vec<E>;
  using Index = typename Isa::template Vec<std::conditional_t<sizeof(E) == 4, int32_t, int64_t>>;
  constexpr int L = Isa::template lanes<E>;
  Index low, high;
  for (int j = 0; j < L; ++j) {
    low[j] = (j & H) ? L + j - H : j;
    high[j] = (j & H) ? L + j : j + H;
  }
#pragma GCC unroll 16
  for (int i = 0; i < L; ++i) {
    if (i & H) continue;
    const Vec a = r[i], b = r[i + H];
    r[i] = __builtin_shuffle(a, b, low);
    r[i + H] = __builtin_shuffle(a, b, high);
  }
}
template <class Isa, class E>
inline void transpose(typename Isa::template Vec<E>* r) {
  constexpr int L = Isa::template lanes<E>;
  if constexpr (L >= 16) transpose_stage<Isa, E, 8>(r);
  if constexpr (L >= 8) transpose_stage<Isa, E, 4>(r);
  if constexpr (L >= 4) transpose_stage<Isa, E, 2>(r);
  transpose_stage<Isa, E, 1>(r);
}

// Of rows that are read side by side, how far ahead each is asked for: the hardware follows fewer streams.
constexpr int kPrefetchBytes = 512;

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
  if (k_stride == 1) {
    for (int64_t j0 = 0; j0 < width; j0 += L) {
      const int cols = static_cast<int>(n - j0 < L ? (n > j0 ? n - j0 : 0) : L);
      for (int64_t p = 0; p < k; p += L) {
        const int rows = static_cast<int>(k - p < L ? k - p : L);
        const S* from = src + j0 * n_stride + p;
        E* const to = dst + p * width + j0;
        typename Isa::template Vec<E> block[L];
        if (cols == L && rows == L) {  // counts that are known keep the block in registers
#pragma GCC unroll 16
          for (int j = 0; j < L; ++j) {
            __builtin_prefetch(from + j * n_stride + kPrefetchBytes / sizeof(S));
            block[j] = load_converted<Isa, E, S>(from + j * n_stride, L);
          }
          transpose<Isa, E>(block);
#pragma GCC unroll 16
          for (int r = 0; r < L; ++r) Isa::template store<E>(to + r * width, block[r]);
          continue;
        }
        std::memset(block, 0, sizeof(block));
        for (int j = 0; j < cols; ++j) block[j] = load_converted<Isa, E, S>(from + j * n_stride, rows);
        transpose<Isa, E>(block);
        for (int r = 0; r < rows; ++r) Isa::template store<E>(to + r * width, block[r]);
      }
    }
    return;
  }
  for (int64_t p = 0; p < k; ++p)
    for (int64_t j = 0; j < width; ++j)
      dst[p * width + j] = j < n ? load_scalar<E>(src[p * k_stride + j * n_stride]) : E{};
}

// The same for elements that no vector lane holds (complex128).
template <class E>
static inline void pack_b_elements(const E* src, int64_t k_stride, int64_t n_stride, int64_t k, int64_t n,
                                   int64_t width, E* dst) {
  for (int64_t p = 0; p < k; ++p)
    for (int64_t j = 0; j < width; ++j) dst[p * width + j] = j < n ? src[p * k_stride + j * n_stride] : E{};
}

// Pairs of 16-bit elements. dst[(k / 2) * width + n] holds B[k, n] in its low and B[k + 1, n] in its high half.
template <class Isa>
void pack_b_pairs(const uint16_t* src, int64_t k_stride, int64_t n_stride, int64_t k, int64_t n, int64_t width,
                  uint32_t* dst) {
  constexpr int L = Isa::template lanes<uint32_t>;
  using Vec = typename Isa::template Vec<uint32_t>;
  if (k_stride == 1) {  // a pair is a 32-bit element already: transpose those
    for (int64_t j0 = 0; j0 < width; j0 += L) {
      const int cols = static_cast<int>(n - j0 < L ? (n > j0 ? n - j0 : 0) : L);
      for (int64_t p = 0; p < k; p += 2 * L) {
        const int64_t left = k - p < 2 * L ? k - p : 2 * L;
        const uint16_t* from = src + j0 * n_stride + p;
        uint32_t* const to = dst + p / 2 * width + j0;
        Vec block[L];
        if (cols == L && left == 2 * L) {
#pragma GCC unroll 16
          for (int j = 0; j < L; ++j) {
            __builtin_prefetch(from + j * n_stride + kPrefetchBytes / sizeof(uint16_t));
            std::memcpy(&block[j], from + j * n_stride, sizeof(Vec));
          }
          transpose<Isa, uint32_t>(block);
#pragma GCC unroll 16
          for (int r = 0; r < L; ++r) Isa::template store<uint32_t>(to + r * width, block[r]);
          continue;
        }
        std::memset(block, 0, sizeof(block));
        for (int j = 0; j < cols; ++j) std::memcpy(&block[j], from + j * n_stride, left * sizeof(uint16_t));
        transpose<Isa, uint32_t>(block);
        for (int r = 0; r < (left + 1) / 2; ++r) Isa::template store<uint32_t>(to + r * width, block[r]);
      }
    }
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
            out + j, whole ? load_group<Isa>(even + j, k_stride) : load_converted<Isa, uint32_t>(even + j));
      }
    for (; j < width; ++j)
      out[j] = j >= n ? 0u : even[j * n_stride] | (whole ? static_cast<uint32_t>(odd[j * n_stride]) << 16 : 0u);
  }
}

// Quadruples of bytes: dst[(k / 4) * width + n] holds B[k .. k + 3, n], low byte first, odd ends zero. Shift: then
// every byte is shifted (kByteShift).
template <class Isa, bool Shift>
void pack_b_quads(const int8_t* src, int64_t k_stride, int64_t n_stride, int64_t k, int64_t n, int64_t width,
                  uint32_t* dst) {
  constexpr int L = Isa::template lanes<uint32_t>;
  using Vec = typename Isa::template Vec<uint32_t>;
  for (int64_t j0 = 0; j0 < width; j0 += L) {
    const int cols = static_cast<int>(n - j0 < L ? (n > j0 ? n - j0 : 0) : L);
    const auto put = [&](int64_t quad, Vec v) {
      Isa::template store<uint32_t>(dst + quad * width + j0, Shift ? v ^ kByteShift : v);
    };
    if (k_stride == 1 && n_stride != 1) {  // four bytes of a column are a 32-bit element already: transpose those
      for (int64_t p = 0; p < k; p += 4 * L) {
        const int64_t left = k - p < 4 * L ? k - p : 4 * L;
        Vec block[L] = {};
        for (int j = 0; j < cols; ++j) {
          __builtin_prefetch(src + (j0 + j) * n_stride + p + kPrefetchBytes);
          std::memcpy(&block[j], src + (j0 + j) * n_stride + p, left);
        }
        transpose<Isa, uint32_t>(block);
        for (int r = 0; r < (left + 3) / 4; ++r) put(p / 4 + r, block[r]);
      }
    } else {
      for (int64_t p = 0; p < k; p += 4) {
        const uint8_t* row = reinterpret_cast<const uint8_t*>(src) + p * k_stride + j0 * n_stride;
        int64_t row_stride = k_stride;
        uint8_t bytes[4 * L] = {};
        if (n_stride != 1 || cols < L || p + 4 > k) {
          for (int q = 0; q < 4 && p + q < k; ++q)
            for (int j = 0; j < cols; ++j) bytes[q * L + j] = row[q * k_stride + j * n_stride];
          row = bytes, row_stride = L;
        }
        put(p / 4, load_group<Isa>(row, row_stride));
      }
    }
  }
}

// A[m, k] at src[m * m_stride + k * k_stride] to dst[m * width + k], converted. Of a transposed A, blocks of L x L are
// turned in registers, all of L rows of memory before the next: long runs of each, and those to come are asked for.
template <class Isa, class T, class S>
void pack_a_rows(const S* src, int64_t m_stride, int64_t k_stride, int64_t m, int64_t k, int64_t width, T* dst) {
  constexpr int L = Isa::template lanes<T>;
  if (m_stride == 1 && k_stride != 1) {
    for (int64_t p = 0; p < k; p += L) {
      const int steps = static_cast<int>(k - p < L ? k - p : L);
      for (int64_t i0 = 0; i0 < m; i0 += L) {
        const int rows = static_cast<int>(m - i0 < L ? m - i0 : L);
        typename Isa::template Vec<T> block[L] = {};
        for (int r = 0; r < steps; ++r) {
          const S* from = src + i0 + (p + r) * k_stride;
          __builtin_prefetch(from + L * k_stride);
          block[r] = load_converted<Isa, T, S>(from, rows);
        }
        transpose<Isa, T>(block);
        for (int r = 0; r < rows; ++r) store_converted<Isa, T, T>(dst + (i0 + r) * width + p, block[r], steps);
      }
    }
    return;
  }
  for (int64_t i = 0; i < m; ++i) {
    const S* row = src + i * m_stride;
    T* out = dst + i * width;
    if (k_stride == 1)
      for (int64_t p = 0; p < k; p += L)  // what lies behind the last element is the padding between rows
        Isa::template store<T>(out + p, load_converted<Isa, T, S>(row + p, static_cast<int>(k - p < L ? k - p : L)));
    else
      for (int64_t p = 0; p < k; ++p) out[p] = load_scalar<T>(row[p * k_stride]);
  }
}

// A to rows whose length is a multiple of `group`, padded with zeros. Of a transposed A, pairs are transposed as 32-bit
// elements, like those of B.
template <class Isa, class S>
void pack_a_groups(const S* src, int64_t m_stride, int64_t k_stride, int64_t m, int64_t k, int64_t group, int64_t width,
                   S* dst) {
  constexpr int L = Isa::template lanes<uint32_t>;
  int64_t i0 = 0;
  if constexpr (sizeof(S) == 2)
    if (m_stride == 1) {
      const int64_t used = (k + 1) / 2 * 2, padded = (k + group - 1) / group * group;
      for (int64_t p = 0; p < k; p += 2 * L) {
        const int64_t pairs = ((k - p < 2 * L ? k - p : 2 * L) + 1) / 2;
        for (i0 = 0; i0 + L <= m; i0 += L) {
          const uint16_t* from = reinterpret_cast<const uint16_t*>(src) + i0 + p * k_stride;
          uint32_t* const to = reinterpret_cast<uint32_t*>(dst + i0 * width + p);
          typename Isa::template Vec<uint32_t> block[L];
          if (p + 2 * L <= k) {
#pragma GCC unroll 16
            for (int r = 0; r < L; ++r) {
              __builtin_prefetch(from + (2 * r + 2 * L) * k_stride);
              __builtin_prefetch(from + (2 * r + 2 * L + 1) * k_stride);
              block[r] = load_group<Isa>(from + 2 * r * k_stride, k_stride);
            }
            transpose<Isa, uint32_t>(block);
#pragma GCC unroll 16
            for (int r = 0; r < L; ++r) Isa::template store<uint32_t>(to + r * width / 2, block[r]);
            continue;
          }
          std::memset(block, 0, sizeof(block));
          for (int64_t r = 0; r < pairs; ++r)
            block[r] = p + 2 * r + 1 < k ? load_group<Isa>(from + 2 * r * k_stride, k_stride)
                                         : load_converted<Isa, uint32_t>(from + 2 * r * k_stride);
          transpose<Isa, uint32_t>(block);
          for (int r = 0; r < L; ++r)
            store_converted<Isa, uint32_t, uint32_t>(reinterpret_cast<uint32_t*>(dst + (i0 + r) * width + p), block[r],
                                                     static_cast<int>(pairs));
        }
      }
      for (int64_t r = 0; r < i0; ++r) std::memset(dst + r * width + used, 0, (padded - used) * sizeof(S));
    }
  for (int64_t i = i0; i < m; ++i) {
    S* row = dst + i * width;
    if (k_stride == 1)
      std::memcpy(row, src + i * m_stride, k * sizeof(S));
    else
      for (int64_t p = 0; p < k; ++p) row[p] = src[i * m_stride + p * k_stride];
    for (int64_t p = k; p % group != 0; ++p) row[p] = S{};
  }
}

}  // namespace myops::cpu
