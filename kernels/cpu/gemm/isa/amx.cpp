// AMX, the matrix unit of Sapphire Rapids and later: bfloat16 and 8-bit integers, and from Granite Rapids on float16;
// all else as AVX-512.
//
// A tile of D is up to 32 x 32: four accumulators of 16 x 16, fed by two tiles of A and two of B. A step takes 64 bytes
// of each row of A (32 16-bit floats, 64 bytes) and 16 rows of a packed panel of B (pairs or quadruples along k), so
// both are padded with zeros to whole steps.
//
// Bound: four multiplications of 16 cycles a step, against 64 loads of a cache line at two a cycle.
#include <algorithm>

#include "avx512_bf16.h"

#include "engine.h"

// TDPFP16PS by its bytes: compilers and assemblers of 2022 do not know it. Unlike that of bfloat16 it takes subnormals.
#ifndef MYOPS_TILE_DPFP16PS
#define MYOPS_TILE_DPFP16PS(d, a, b) \
  asm volatile(".byte 0xc4, 0xe2, %c0, 0x5c, %c1" ::"i"((15 - (b)) << 3 | 3), "i"(0xc0 | (d) << 3 | (a)))
#endif

namespace myops::cpu {
namespace {

// Palette 1: rows and bytes a row of each of the eight tiles. Tiles 0 to 3 accumulate, 4 and 5 hold A, 6 and 7 B.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Which rows the tiles of this thread are configured for; 0: not configured.
thread_local int configured_rows = 0;

void configure(int rows) {
  if (rows == configured_rows) return;
  TileConfig config;
  const int upper = rows < 16 ? rows : 16, lower = rows - upper;
  const int tile_rows[8] = {upper, upper, lower, lower, upper, lower, 16, 16};
  for (int t = 0; t < 8; ++t) {
    config.rows[t] = static_cast<uint8_t>(tile_rows[t]);
    config.row_bytes[t] = tile_rows[t] > 0 ? 64 : 0;
  }
  _tile_loadconfig(&config);
  configured_rows = rows;
}

template <class Isa, class S, class O>
struct MatrixUnit {
  static constexpr bool kMatrixUnit = true, kShift = false, kComplexRows = false;
  static constexpr int kRows = kUnitRows, kVectors = kUnitVectors, kDepth = kUnitDepth, kLanes = 16,
                       kGroup = 4 / sizeof(S);
  using Scalar = std::conditional_t<std::is_integral_v<S>, uint32_t, float>;
  using A = S;
  using B = uint32_t;
  using Out = O;
  using Vec = typename Isa::template Vec<Scalar>;
  using Signs = NoSigns;

  // The state of the tiles is large, and a context switch saves what is in use.
  struct Session {
    ~Session() {
      if (configured_rows != 0) _tile_release();
      configured_rows = 0;
    }
  };

#define MYOPS_TILE_DOT(d, a, b)              \
  if constexpr (std::is_same_v<S, bf16>)     \
    _tile_dpbf16ps(d, a, b);                 \
  else if constexpr (std::is_same_v<S, f16>) \
    MYOPS_TILE_DPFP16PS(d, a, b);            \
  else if constexpr (std::is_signed_v<S>)    \
    _tile_dpbssd(d, a, b);                   \
  else                                       \
    _tile_dpbuud(d, a, b)

  template <bool Lower, bool Right>
  static void run(const TileArgs<Scalar, A, B, Out, Signs>& t) {
    configure(t.rows);
    if (t.k >= 8 * kDepth && t.sums == nullptr) prefetch_rows<MatrixUnit, true>(t.d, t.d_row, t.rows, 1 + Right);
    if (t.start == nullptr) {
      _tile_zero(0);
      if constexpr (Right) _tile_zero(1);
      if constexpr (Lower) _tile_zero(2);
      if constexpr (Lower && Right) _tile_zero(3);
    } else {
      const int64_t start_row = t.start_row * static_cast<int64_t>(sizeof(Scalar));
      const Scalar* lower = t.start + 16 * t.start_row;
      _tile_loadd(0, t.start, start_row);
      if constexpr (Right) _tile_loadd(1, t.start + kLanes, start_row);
      if constexpr (Lower) _tile_loadd(2, lower, start_row);
      if constexpr (Lower && Right) _tile_loadd(3, lower + kLanes, start_row);
    }
    const int64_t a_row = t.a_row * static_cast<int64_t>(sizeof(A)), b_row = t.b_k * static_cast<int64_t>(sizeof(B));
    const A* a = t.a;
    const B* b = t.b;
    for (int64_t k = 0; k < t.k; k += kDepth) {
      if (t.b_ahead != 0)
        for (int i = 0; i < kDepth * (1 + Right); ++i) __builtin_prefetch(b + t.b_ahead + i * kLanes);
      _tile_loadd(4, a, a_row);
      _tile_loadd(6, b, b_row);
      MYOPS_TILE_DOT(0, 4, 6);
      if constexpr (Right) {
        _tile_loadd(7, b + kLanes, b_row);
        MYOPS_TILE_DOT(1, 4, 7);
      }
      if constexpr (Lower) {
        _tile_loadd(5, a + 16 * t.a_row, a_row);
        MYOPS_TILE_DOT(2, 5, 6);
        if constexpr (Right) {
          MYOPS_TILE_DOT(3, 5, 7);
        }
      }
      a += kDepth * kGroup;
      b += kDepth * t.b_k;
    }
    alignas(64) Scalar own[kRows * kVectors * kLanes];
    Scalar* const sums = t.sums != nullptr ? t.sums : own;
    constexpr int kRow = kVectors * kLanes, kRowBytes = kRow * sizeof(Scalar);
    _tile_stored(0, sums, kRowBytes);
    if constexpr (Right) _tile_stored(1, sums + kLanes, kRowBytes);
    if constexpr (Lower) _tile_stored(2, sums + 16 * kRow, kRowBytes);
    if constexpr (Lower && Right) _tile_stored(3, sums + 16 * kRow + kLanes, kRowBytes);
    if (t.sums != nullptr) return;
    if (t.before == nullptr && t.c == nullptr && t.last == kLanes) {  // nothing to ask at every vector
      const Scalar alpha = t.alpha;
      Out* d = t.d;
      for (int i = 0; i < t.rows; ++i, d += t.d_row)
#pragma GCC unroll 2
        for (int j = 0; j < 1 + Right; ++j)
          store_converted<Isa, Scalar, Out>(
              d + j * kLanes, rounded(Isa::template load<Scalar>(own + i * kRow + j * kLanes) * alpha), kLanes);
      return;
    }
    write_tile<Isa, MatrixUnit>(t, t.rows, 1 + Right, own, kRow);
  }

  // GFLOP/s of one core for about `seconds`, on tiles alone.
  static double peak_rate(double seconds) {
    const Session session;
    configure(kRows);
    for (double best = 0, end = seconds_now() + seconds;;) {
      const double start = seconds_now();
      constexpr int kRounds = 20000;
      for (int r = 0; r < kRounds; ++r) {
        MYOPS_TILE_DOT(0, 4, 6);
        MYOPS_TILE_DOT(1, 4, 7);
        MYOPS_TILE_DOT(2, 5, 6);
        MYOPS_TILE_DOT(3, 5, 7);
      }
      const double now = seconds_now(), operations = 2.0 * kRows * kVectors * kLanes * kDepth * kGroup * kRounds;
      best = std::max(best, 1e-9 * operations / (now - start));
      if (now >= end) return best;
    }
  }
#undef MYOPS_TILE_DOT

  static TileFn<MatrixUnit> kernel(int64_t rows, int64_t vectors) {
    if (rows > 16) return vectors > 1 ? &run<true, true> : &run<true, false>;
    return vectors > 1 ? &run<false, true> : &run<false, false>;
  }
};

struct Amx : Avx512Bf16 {
  static constexpr bool kMatrixUnit = true;
};

// use(Tiled<...>) of a product in the unit, where only a plan of amx_fp16 has float16.
template <class Use>
void with_unit(const Gemm& g, const Plan& p, const Use& use) {
  with_product_types(g.in, [&](auto types) {
    using T = typename decltype(types)::Compute;
    using S = typename decltype(types)::Stored;
    constexpr bool kFloat = std::is_same_v<S, bf16> || std::is_same_v<S, f16>;
    if constexpr (kFloat || sizeof(S) == 1) {
      const FinishFn<T> finish = choose_finish<Amx, T, S, typename decltype(types)::Wide>(g);
      if constexpr (kFloat)
        if (p.direct_d && g.out == g.in) return use(Tiled<Amx, MatrixUnit<Amx, S, S>, S>(g, p, finish));
      use(Tiled<Amx, MatrixUnit<Amx, S, T>, S>(g, p, finish));
    }
  });
}

bool in_unit(const Plan& p) { return p.driver == Driver::tiled && p.compute == Compute::matrix_unit; }

}  // namespace

extern template void gemm<Avx512Bf16>(const Gemm&, const Plan&, const Runtime&);
extern template void pack_weight<Avx512Bf16>(const Gemm&, const Plan&, void*);
extern template double peak_rate<Avx512Bf16>(DType, double);

template <>
void gemm<Amx>(const Gemm& g, const Plan& p, const Runtime& rt) {
  if (!in_unit(p)) return gemm<Avx512Bf16>(g, p, rt);
  with_unit(g, p, [&](auto tiled) { tiled.run(rt); });
}
template <>
void pack_weight<Amx>(const Gemm& g, const Plan& p, void* panels) {
  if (!in_unit(p)) return pack_weight<Avx512Bf16>(g, p, panels);
  with_unit(g, p, [&](auto tiled) { tiled.pack_weight(panels); });
}
template <>
double peak_rate<Amx>(DType type, double seconds) {
  if (type == DType::bf16) return MatrixUnit<Amx, bf16, float>::peak_rate(seconds);
  if (type == DType::i8) return MatrixUnit<Amx, int8_t, uint32_t>::peak_rate(seconds);
  return peak_rate<Avx512Bf16>(type, seconds);
}

const Engine kAmx = make_engine<Amx, Level::amx>();
constexpr Engine kAmxFp16 = [] {  // constexpr: nothing runs at load, which CPUs without AVX-512 do too
  Engine engine = make_engine<Amx, Level::amx_fp16>();
  engine.peak_rate = [](DType type, double seconds) {
    return type == DType::f16 ? MatrixUnit<Amx, f16, float>::peak_rate(seconds) : peak_rate<Amx>(type, seconds);
  };
  return engine;
}();

}  // namespace myops::cpu
