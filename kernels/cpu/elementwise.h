// add on the CPU: D = X + alpha * Y, any dtypes, strides and broadcasts, in chunks that stay in L1.
//
// The sum is formed in the compute type of D (float32 for 16-bit floats, uint64 for integers), rounded once. Where all
// three share a dtype that is computed in directly and have unit stride, one fused loop runs; else each operand is
// brought into the compute type chunk by chunk. Bound: three streams of memory.
#pragma once
#include "../matrix_view.h"
#include "gemm/isa/portable.h"
#include "gemm/pack.h"
#include "gemm/plan.h"
#include "gemm/types.h"

namespace myops::cpu {

// Conversions between the dtypes that promotion allows; a boolean is stored as one byte of 0 or 1.
struct Boolean {
  uint8_t value;
};
template <class T, class S>
static inline T convert_element(S v) {
  if constexpr (std::is_same_v<S, Boolean>)
    return convert_element<T, uint8_t>(v.value != 0);
  else if constexpr (std::is_same_v<T, Complex<float>> || std::is_same_v<T, Complex<double>>) {
    using R = decltype(T::re);
    if constexpr (std::is_same_v<S, Complex<float>> || std::is_same_v<S, Complex<double>>)
      return {static_cast<R>(v.re), static_cast<R>(v.im)};
    else
      return {convert_element<R>(v), R(0)};
  } else if constexpr (std::is_same_v<S, bf16> || std::is_same_v<S, f16>)
    return static_cast<T>(to_float(v));
  else if constexpr (std::is_same_v<S, Complex<float>> || std::is_same_v<S, Complex<double>>)
    return static_cast<T>(v.re);  // never reached: promotion keeps complex
  else
    return static_cast<T>(v);
}

// Loads n elements of any dtype into the compute type.
template <class Isa, class T>
inline void load_any(const void* p, DType type, int64_t offset, int64_t stride, int n, T* out) {
  const auto load = [&](auto tag) {
    using S = decltype(tag);
    const S* src = static_cast<const S*>(p) + offset;
    int i = 0;
    if (stride == 0) {
      const T value = convert_element<T>(*src);
      for (; i < n; ++i) out[i] = value;
      return;
    }
    if constexpr (std::is_same_v<T, float> && (std::is_same_v<S, bf16> || std::is_same_v<S, f16>))
      if (stride == 1)
        for (constexpr int L = Isa::template lanes<float>; i + L <= n; i += L)
          Isa::template store<float>(out + i, Isa::widen(src + i));
    for (; i < n; ++i) out[i] = convert_element<T>(src[i * stride]);
  };
  switch (type) {
    case DType::f32: return load(float{});
    case DType::f64: return load(double{});
    case DType::bf16: return load(bf16{});
    case DType::f16: return load(f16{});
    case DType::c64: return load(Complex<float>{});
    case DType::c128: return load(Complex<double>{});
    case DType::i8: return load(int8_t{});
    case DType::u8: return load(uint8_t{});
    case DType::i16: return load(int16_t{});
    case DType::i32: return load(int32_t{});
    case DType::i64: return load(int64_t{});
    case DType::boolean: return load(Boolean{});
  }
}

// Unlike a product's, the sum's subnormals stay (store_exact).
template <class Isa, class T>
inline void store_any(void* p, DType type, int64_t offset, int64_t stride, int n, const T* v) {
  const auto store = [&](auto tag) {
    using S = decltype(tag);
    S* dst = static_cast<S*>(p) + offset;
    int i = 0;
    if constexpr (std::is_same_v<S, bf16> || std::is_same_v<S, f16>) {
      if (stride == 1)
        for (constexpr int L = Isa::template lanes<float>; i + L <= n; i += L)
          store_exact<Isa, float, S>(dst + i, Isa::template load<float>(v + i), L);
      for (; i < n; ++i) dst[i * stride] = store_scalar<S>(v[i]);
    } else if constexpr (std::is_same_v<S, Boolean>) {
      for (; i < n; ++i) dst[i * stride] = Boolean{static_cast<uint8_t>(v[i] != 0)};
    } else {
      for (; i < n; ++i) dst[i * stride] = static_cast<S>(v[i]);
    }
  };
  if constexpr (std::is_same_v<T, float>) {
    if (type == DType::f32) return store(float{});
    if (type == DType::bf16) return store(bf16{});
    return store(f16{});
  } else if constexpr (std::is_integral_v<T>) {
    switch (type) {
      case DType::i8: return store(int8_t{});
      case DType::u8: return store(uint8_t{});
      case DType::i16: return store(int16_t{});
      case DType::i32: return store(int32_t{});
      case DType::i64: return store(int64_t{});
      default: return store(Boolean{});
    }
  } else {
    store(T{});
  }
}

template <class T>
static inline T add_scaled(T x, T alpha, T y) {
  using Wide = std::common_type_t<T, unsigned>;  // short integers would be multiplied as int, which may overflow
  return static_cast<T>(static_cast<Wide>(x) + static_cast<Wide>(alpha) * static_cast<Wide>(y));
}
template <class T>
static inline Complex<T> add_scaled(Complex<T> x, Complex<T> alpha, Complex<T> y) {
  return {x.re + alpha.re * y.re, x.im + alpha.re * y.im};
}

enum class One { none, x, y };  // the operand that is one element for all of a row

// The sum of bfloat16 neighbours that share a lane of 32 bits: even ones shifted up, odd ones in place, so that nothing
// is shuffled. Rounded like to_bf16, which has more to do: a NaN here has a zero low half, and no carry spoils it.
template <class Isa, One kOne>
inline void add_bf16_pairs(const bf16* x, const bf16* y, typename Isa::template Vec<float> one, float alpha, bf16* d) {
  using Vec = typename Isa::template Vec<float>;
  using Bits = typename Isa::template Vec<uint32_t>;
  const auto sum = [&](Bits xs, Bits ys) {
    const Vec terms = kOne == One::y ? one : reinterpret_cast<Vec>(ys) * alpha;
    const Bits bits = reinterpret_cast<Bits>((kOne == One::x ? one : reinterpret_cast<Vec>(xs)) + terms);
    return bits + 0x7fffu + ((bits >> 16) & 1u);
  };
  const Bits xs = kOne == One::x ? Bits{} : reinterpret_cast<Bits>(Isa::template load<uint16_t>(&x->bits));
  const Bits ys = kOne == One::y ? Bits{} : reinterpret_cast<Bits>(Isa::template load<uint16_t>(&y->bits));
  constexpr uint32_t kOdd = 0xffff0000u;
  const Bits pairs = (sum(xs << 16, ys << 16) >> 16) | (sum(xs & kOdd, ys & kOdd) & kOdd);
  Isa::template store<uint16_t>(&d->bits, reinterpret_cast<typename Isa::template Vec<uint16_t>>(pairs));
}

constexpr int64_t kAddGrain = 16384;  // elements a task: below, a second thread does not pay

// All three of S, unit stride but for kOne, computed in T: S itself, or float for a 16-bit float. Complex is left to
// the compiler.
template <class Isa, class T, class S, One kOne>
inline void add_direct(const S* x, const S* y, T alpha, S* d, int64_t n) {
  constexpr int kX = kOne == One::x ? 0 : 1, kY = kOne == One::y ? 0 : 1;
  int64_t i = 0;
  if constexpr (std::is_arithmetic_v<T>) {
    using Vec = typename Isa::template Vec<T>;
    constexpr int L = Isa::template lanes<T>;
    // Rounded, also where one use of it and the product stand together: equal elements have equal sums.
    const Vec one = kOne == One::x ? load_scalar<T>(*x) - Vec{}  // which leaves -0 what it is
                                   : rounded((load_scalar<T>(*y) - Vec{}) * alpha);
    if constexpr (std::is_same_v<S, bf16>)
      if (alpha == alpha)
        for (; i + 2 * L <= n; i += 2 * L) add_bf16_pairs<Isa, kOne>(x + i * kX, y + i * kY, one, alpha, d + i);
    // Both are loaded before they are put together: gcc fuses a product and a sum that no branch parts.
    const auto sum = [&](int64_t at, int lanes) {
      const Vec xs = kOne == One::x ? one : load_converted<Isa, T, S>(x + at, lanes);
      const Vec ys = kOne == One::y ? one : load_converted<Isa, T, S>(y + at, lanes);
      store_exact<Isa, T, S>(d + at, kOne == One::y ? xs + ys : xs + ys * alpha, lanes);
    };
    for (; i + L <= n; i += L) sum(i, L);
    if (i < n) sum(i, static_cast<int>(n - i));
  } else if constexpr (kOne == One::y) {
    const S term = {rounded(alpha.re * y->re), rounded(alpha.re * y->im)};
    for (; i < n; ++i) d[i] = {x[i].re + term.re, x[i].im + term.im};
  } else {
    for (; i < n; ++i) d[i] = add_scaled(x[i * kX], alpha, y[i]);
  }
}

// Any strides. Four at a time, whose loads need not wait for the stores before them.
template <class T>
static inline void add_strided(const T* x, int64_t sx, const T* y, int64_t sy, T alpha, T* d, int64_t sd, int64_t n) {
  constexpr int kAtOnce = 4;
  int64_t i = 0;
  for (; i + kAtOnce <= n; i += kAtOnce) {
    T sums[kAtOnce];
#pragma GCC unroll 4
    for (int u = 0; u < kAtOnce; ++u) sums[u] = add_scaled(x[(i + u) * sx], alpha, y[(i + u) * sy]);
#pragma GCC unroll 4
    for (int u = 0; u < kAtOnce; ++u) d[(i + u) * sd] = sums[u];
  }
  for (; i < n; ++i) d[i * sd] = add_scaled(x[i * sx], alpha, y[i * sy]);
}

// Dimensions may be walked in any order.
static inline void swap_dims(Add& p, int i, int j) {
  for (int64_t* of : {p.size, p.x_stride, p.y_stride, p.d_stride}) std::swap(of[i], of[j]);
}

// The dimension that one operand runs along where D and the other one run along the last; -1: there is none.
static inline int crossed_dim(const Add& p) {
  const int last = p.dims - 1;
  if (last < 1 || p.d_stride[last] != 1 || (p.x_stride[last] == 1) == (p.y_stride[last] == 1)) return -1;
  const int64_t* const crossed = p.x_stride[last] == 1 ? p.y_stride : p.x_stride;
  int k = crossed[last] > 1 ? last - 1 : -1;
  while (k >= 0 && crossed[k] != 1) --k;
  return k;
}

// Whether one operand is a row for all rows of a matrix that has no gaps: a bias.
static inline bool repeats_row(const Add& p) {
  if (p.dims != 2 || p.size[0] == 1 || p.d_stride[0] != p.size[1] || (p.x_stride[1] & p.y_stride[1]) != 1) return false;
  return p.x_stride[0] + p.y_stride[0] == p.size[1] && (p.x_stride[0] == 0 || p.y_stride[0] == 0);
}

// Such a sum over few columns, as one of long rows: `rows` is the row as often as kChunk elements hold it. Short rows
// are all beginning and end: 300,000 x 3 float32 0.84 ms (torch 0.44).
template <int kChunk, class Sum>
void add_rows(const Add& p, void* rows, const Sum& sum) {
  const bool of_x = p.x_stride[0] == 0;
  const int64_t repeats = min64(kChunk / p.size[1], p.size[0]), length = repeats * p.size[1];
  const int64_t bytes = p.size[1] * element_size(p.d_type), whole = p.size[0] / repeats;
  for (int64_t i = 0; i < repeats; ++i)
    std::memcpy(static_cast<char*>(rows) + i * bytes, of_x ? p.x : p.y, static_cast<size_t>(bytes));
  Add q = p;
  (of_x ? q.x : q.y) = rows;
  q.size[0] = whole, q.size[1] = length;
  (of_x ? q.y_stride : q.x_stride)[0] = q.d_stride[0] = length;
  sum(q);
  if (p.size[0] == whole * repeats) return;
  const int64_t done = whole * repeats * bytes;
  const void*& full = of_x ? q.y : q.x;
  full = static_cast<const char*>(full) + done;
  q.d = static_cast<char*>(q.d) + done;
  q.size[0] = 1, q.size[1] = (p.size[0] - whole * repeats) * p.size[1];
  sum(q);
}

// One operand runs along the rows of D, the other across them (a transposed matrix), along the last dimension but one:
// tiles of L x L are turned in registers, so that whole cache lines of both are read.
// Real: what an element consists of, and alpha is; complex64 moves as double.
template <class Isa, class T, class S, class Real = T>
void add_crossed(const Add& p, Real alpha, const Runtime& rt) {
  constexpr int L = Isa::template lanes<T>;
  const int row = p.dims - 2, col = p.dims - 1;
  const int64_t row_blocks = ceil_div(p.size[row], L);
  int64_t tasks = row_blocks;
  for (int i = 0; i < row; ++i) tasks *= p.size[i];
  for_ranges(rt, rt.threads > 1 && p.numel() > kAddGrain, tasks, [&](int64_t begin, int64_t end) {
    using Vec = typename Isa::template Vec<T>;
    using Terms = typename Isa::template Vec<Real>;
    const Add q = p;  // copies, which stores to D cannot change
    const Real scale = alpha;
    const bool x_crossed = q.x_stride[col] != 1;
    const int64_t crossed_stride = x_crossed ? q.x_stride[col] : q.y_stride[col],
                  straight_row = x_crossed ? q.y_stride[row] : q.x_stride[row], d_row = q.d_stride[row];
    for (int64_t task = begin; task < end; ++task) {
      const int64_t row0 = task % row_blocks * L;
      const int rows = static_cast<int>(min64(L, q.size[row] - row0));
      int64_t outer = task / row_blocks;
      int64_t x_at = row0 * q.x_stride[row], y_at = row0 * q.y_stride[row], d_at = row0 * q.d_stride[row];
      for (int i = row - 1; i >= 0; --i) {
        const int64_t index = outer % q.size[i];
        outer /= q.size[i];
        x_at += index * q.x_stride[i], y_at += index * q.y_stride[i], d_at += index * q.d_stride[i];
      }
      const S* x = static_cast<const S*>(q.x) + x_at;
      const S* y = static_cast<const S*>(q.y) + y_at;
      const S* crossed = x_crossed ? x : y;
      const S* straight = x_crossed ? y : x;
      S* d = static_cast<S*>(q.d) + d_at;
      for (int64_t col0 = 0; col0 < q.size[col]; col0 += L) {
        turn_block<Isa, T>(
            static_cast<int>(min64(L, q.size[col] - col0)), rows,
            [&](int j, int n) { return load_converted<Isa, T, S>(crossed + (col0 + j) * crossed_stride, n); },
            [&](int i, Vec v, int cols) {
              const Terms turned = reinterpret_cast<Terms>(v);
              const Terms other =
                  reinterpret_cast<Terms>(load_converted<Isa, T, S>(straight + i * straight_row + col0, cols));
              const Terms sum = x_crossed ? turned + other * scale : other + turned * scale;
              store_exact<Isa, T, S>(d + i * d_row + col0, reinterpret_cast<Vec>(sum), cols);
            });
      }
    }
  });
}

// Direct: the dtype that is T itself; where all three operands have it, no element is converted. Walks one range of the
// flattened outer dimensions.
template <class Isa, class T, DType Direct>
void add_typed(Add p, const Runtime& rt) {
  constexpr int kChunk = 512, kShort = 16;
  T alpha{};
  if constexpr (std::is_integral_v<T>)
    alpha = static_cast<T>(static_cast<int64_t>(p.alpha));
  else
    alpha = convert_element<T>(p.alpha);
  const bool own_type = p.d_type == Direct || (std::is_same_v<T, float> && element_size(p.d_type) == 2);
  const bool one_type = own_type && p.x_type == p.d_type && p.y_type == p.d_type;
  const bool converts = !one_type || p.d_type != Direct;
  const int last = p.dims - 1;
  if constexpr (sizeof(T) == 4 || sizeof(T) == 8) {
    const bool long_rows = last > 0 && (converts || p.size[last] >= kShort);
    if (const int crossed = one_type && long_rows ? crossed_dim(p) : -1; crossed >= 0) {
      swap_dims(p, crossed, p.dims - 2);
      if constexpr (!std::is_arithmetic_v<T>) {
        return add_crossed<Isa, double, double>(p, alpha.re, rt);
      } else {
        if (p.d_type == Direct) return add_crossed<Isa, T, T>(p, alpha, rt);
        if constexpr (std::is_same_v<T, float>)
          return p.d_type == DType::bf16 ? add_crossed<Isa, T, bf16>(p, alpha, rt)
                                         : add_crossed<Isa, T, f16>(p, alpha, rt);
      }
    }
  }
  const auto runs = [&] {  // as add_direct takes them
    return one_type && (last < 0 || (p.d_stride[last] == 1 && (p.x_stride[last] | p.y_stride[last]) == 1));
  };
  if (last > 0 && runs() && p.size[last] <= kChunk / 8 && repeats_row(p)) {
    alignas(64) unsigned char rows[kChunk * sizeof(T)];
    return add_rows<kChunk>(p, rows, [&](const Add& q) { add_typed<Isa, T, Direct>(q, rt); });
  }
  // Rows of a few elements are all beginning and end: 300,000 x 3 int8 with a transposed one took 2.8 ms, and 0.5 along
  // its columns, float32 with 300,000 x 1 0.86 and 0.45 (Zen 5).
  if (last > 0 && p.size[last] < (!runs() ? kShort : converts ? 0 : 5)) {
    int longest = last;
    for (int i = 0; i < last; ++i)
      if (p.size[i] > p.size[longest]) longest = i;
    swap_dims(p, longest, last);
  }
  const bool direct = runs();
  const int64_t inner = p.dims == 0 ? 1 : p.size[last];
  const int64_t sx = p.dims == 0 ? 1 : p.x_stride[last], sy = p.dims == 0 ? 1 : p.y_stride[last],
                sd = p.dims == 0 ? 1 : p.d_stride[last];
  const int64_t pieces = inner > kAddGrain ? ceil_div(inner, kAddGrain) : 1;
  const int64_t rows = p.numel() / inner;
  for_ranges(rt, rt.threads > 1 && p.numel() > kAddGrain, rows * pieces, [&](int64_t begin, int64_t end) {
    T x[kChunk], y[kChunk];
    for (int64_t task = begin, next; task < end; task = next) {
      int64_t row = task, from = 0, to = inner, x_at = 0, y_at = 0, d_at = 0;
      next = task + 1;
      if (pieces > 1) {  // those of a row up to `end` at once: every new start waits for memory
        row = task / pieces;
        next = min64(end, (row + 1) * pieces);
        from = part_begin(inner, pieces, task - row * pieces);
        to = part_begin(inner, pieces, next - row * pieces);
      }
      for (int i = p.dims - 2; i >= 0; --i) {
        const int64_t index = i > 0 ? row % p.size[i] : row;
        if (i > 0) row /= p.size[i];
        x_at += index * p.x_stride[i], y_at += index * p.y_stride[i], d_at += index * p.d_stride[i];
      }
      if (direct) {
        const auto run = [&](auto tag) {
          using S = decltype(tag);
          const S* xs = static_cast<const S*>(p.x) + x_at + from * sx;
          const S* ys = static_cast<const S*>(p.y) + y_at + from * sy;
          S* ds = static_cast<S*>(p.d) + d_at + from;
          if (sy == 0)
            add_direct<Isa, T, S, One::y>(xs, ys, alpha, ds, to - from);
          else if (sx == 0)
            add_direct<Isa, T, S, One::x>(xs, ys, alpha, ds, to - from);
          else
            add_direct<Isa, T, S, One::none>(xs, ys, alpha, ds, to - from);
        };
        if constexpr (std::is_same_v<T, float>) {
          if (p.d_type == DType::bf16) run(bf16{});
          if (p.d_type == DType::f16) run(f16{});
        }
        if (p.d_type == Direct) run(T{});
        continue;
      }
      if (!converts) {
        add_strided(static_cast<const T*>(p.x) + x_at + from * sx, sx, static_cast<const T*>(p.y) + y_at + from * sy,
                    sy, alpha, static_cast<T*>(p.d) + d_at + from * sd, sd, to - from);
        continue;
      }
      for (int64_t i = from; i < to; i += kChunk) {
        const int n = static_cast<int>(to - i < kChunk ? to - i : kChunk);
        load_any<Isa, T>(p.x, p.x_type, x_at + i * sx, sx, n, x);
        load_any<Isa, T>(p.y, p.y_type, y_at + i * sy, sy, n, y);
        for (int j = 0; j < n; ++j) x[j] = add_scaled(x[j], alpha, y[j]);
        store_any<Isa, T>(p.d, p.d_type, d_at + i * sd, sd, n, x);
      }
    }
  });
}

template <class Isa>
void add(const Add& p, const Runtime& rt) {
  const bool same = p.x_type == p.d_type && p.y_type == p.d_type;  // integers modulo 2^w in their own width
  switch (p.d_type) {
    case DType::i32:
      if (same) return add_typed<Isa, uint32_t, DType::i32>(p, rt);
      break;
    case DType::i16:
      if (same) return add_typed<Isa, uint16_t, DType::i16>(p, rt);
      break;
    case DType::i8:
      if (same) return add_typed<Isa, uint8_t, DType::i8>(p, rt);
      break;
    case DType::u8:
      if (same) return add_typed<Isa, uint8_t, DType::u8>(p, rt);
      break;
    case DType::f32:
    case DType::bf16:
    case DType::f16: return add_typed<Isa, float, DType::f32>(p, rt);
    case DType::f64: return add_typed<Isa, double, DType::f64>(p, rt);
    case DType::c64: return add_typed<Isa, Complex<float>, DType::c64>(p, rt);
    case DType::c128: return add_typed<Isa, Complex<double>, DType::c128>(p, rt);
    default: break;
  }
  add_typed<Isa, uint64_t, DType::i64>(p, rt);
}

}  // namespace myops::cpu
