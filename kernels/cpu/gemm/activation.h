// The activations of the epilogue on vectors, without a branch or a table.
//
//   relu       max(x, 0) of the stored dtype; NaN stays NaN
//   silu       x * sigmoid(x)
//   gelu_tanh  0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), which is x * sigmoid(2 sqrt(2 / pi) (...))
//   gelu       x * Phi(x), Phi the normal distribution: 1/2 plus x times a polynomial in x^2, interpolated at Chebyshev
//              nodes.
//
// Errors against exact values, in units of eps * |x|, torch's own in brackets: float32 gelu 1.14 (2.71), gelu_tanh 1.10
// (0.85), silu 1.16 (0.96); float64 gelu 1.22 (0.82; 1.32 without multiply-add instructions), 1.07 (0.75), 1.08 (0.88);
// tests/test_activation.py measures both. f(inf) is inf, f(-inf) NaN as in torch.
#pragma once
#include "../../matrix_view.h"
#include "types.h"

namespace myops::cpu {

template <class T>
struct Constants;

template <>
struct Constants<float> {
  using Bits = uint32_t;  // unsigned: a power of two that is of no use may overflow
  static constexpr int kMantissa = 23;
  static constexpr Bits kOne = 0x3f800000, kSign = 0x80000000;
  // Adding it rounds to a whole number, which the low bits of the sum hold.
  static constexpr float kRound = 12582912.0f;
  static constexpr float kLeast = -87.0f;  // exp(x) is 0 below; a normal number above
  static constexpr float kLn2Upper = 0.693359375f, kLn2Lower = -2.12194440e-4f;
  // exp(r) = 1 + r + r^2 (...) for |r| <= ln(2) / 2, the highest power first; relative error 1e-8.
  static constexpr float kExp[] = {0.001392617612f, 0.008363173075f, 0.04166655466f, 0.1666657703f, 0.5f};
  // (Phi(x) - 1/2) / x in powers of 2 (x / kReach)^2 - 1; absolute error of Phi 1.4e-8 up to |x| = kReach. Beyond, Phi
  // is 0 or 1 to 2e-8.
  static constexpr float kReach = 5.5f;
  static constexpr float kPhi[] = {-0.000274066027f, 0.000655148178f, -0.000400195771f, 0.000643707812f,
                                   -0.00259371055f,  0.0047183563f,   -0.00670017209f,  0.0101677552f,
                                   -0.0150423506f,   0.0203835722f,   -0.0260403696f,   0.0320674293f,
                                   -0.0387934074f,   0.0477377847f,   -0.0641723275f,   0.12855193f};
};

template <>
struct Constants<double> {
  using Bits = uint64_t;
  static constexpr int kMantissa = 52;
  static constexpr Bits kOne = 0x3ff0000000000000, kSign = 0x8000000000000000;
  static constexpr double kRound = 6755399441055744.0;
  static constexpr double kLeast = -708.0;
  static constexpr double kLn2Upper = 6.93147180369123816490e-01, kLn2Lower = 1.90821492927058770002e-10;
  // Relative error 2e-17.
  static constexpr double kExp[] = {2.510037583256123366e-8, 2.762007587998336659e-7, 2.755726848031002553e-6,
                                    2.480152132236869327e-5, 1.984126986304054527e-4, 1.388888891719671908e-3,
                                    8.333333333330064449e-3, 4.16666666666241619e-2,  1.666666666666666745e-1,
                                    5.000000000000001021e-1};
  // Absolute error 6e-17.
  static constexpr double kReach = 8.3;
  static constexpr double kPhi[] = {
      1.6112451041670085e-06, -3.85099238508719e-06,  -5.882673454362728e-06,  1.4910797745725303e-05,
      2.6485824806840223e-05, -6.251031196300869e-05, -1.8498597080857184e-05, 5.8408429227308184e-05,
      0.00012347830046230898, -0.0002544962657542186, 0.0001607041628463248,   -0.00022267251775552008,
      0.0005959649747275555,  -0.0009563648152535768, 0.0012703688742175291,   -0.0018158797114720619,
      0.0026206846497913413,  -0.003553713667998848,  0.0046163361601684605,   -0.005840023127908419,
      0.0071722079229133,     -0.008539186163934667,  0.009888142272473758,    -0.01117651267153934,
      0.012375781087529647,   -0.013483320156305443,  0.014523681682302295,    -0.015543720393275217,
      0.016607365046180763,   -0.017793123244008877,  0.019198686481447666,    -0.020959198419190576,
      0.023293383481147394,   -0.026622617791262515,  0.03194753351162465,     -0.042596787249971145,
      0.08519358772121839};
};

template <class V, class T, int N>
static inline V polynomial(V x, const T (&coefficients)[N]) {
  V sum = V{} + coefficients[0];
#pragma GCC unroll 64
  for (int i = 1; i < N; ++i) sum = sum * x + coefficients[i];
  return sum;
}

// One ISA level's arithmetic on vectors of T.
template <class Isa, class T>
struct Activations {
  using K = Constants<T>;
  using Vec = typename Isa::template Vec<T>;
  using Bits = typename Isa::template Vec<typename K::Bits>;

  static inline Vec negative_magnitude(Vec x) { return reinterpret_cast<Vec>(reinterpret_cast<Bits>(x) | K::kSign); }

  // exp(x) for x <= 0: 2^n exp(r), x = n ln(2) + r. For NaN anything, so that callers multiply by their argument.
  static inline Vec exp_of_negative(Vec x) {
    const Vec shifted = x * T(1.44269504088896340736) + K::kRound, n = shifted - K::kRound;
    const Vec r = x - n * K::kLn2Upper - n * K::kLn2Lower;
    const Vec mantissa = polynomial(r, K::kExp) * (r * r) + r + T(1);
    const Vec power = reinterpret_cast<Vec>((reinterpret_cast<Bits>(shifted) << K::kMantissa) + K::kOne);
    return x < K::kLeast ? Vec{} : mantissa * power;
  }

  static inline Vec sigmoid(Vec x) {
    const Vec e = exp_of_negative(negative_magnitude(x));
    return (x < T(0) ? e : Vec{} + T(1)) / (e + T(1));
  }

  static inline Vec normal_distribution(Vec x) {
    const Vec phi = polynomial(x * x * T(2 / (K::kReach * K::kReach)) - T(1), K::kPhi) * x + T(0.5);
    return x > K::kReach ? Vec{} + T(1) : x < -K::kReach ? Vec{} : phi;
  }

  template <Activation kF>
  static inline Vec apply(Vec x) {
    if constexpr (kF == Activation::gelu)
      return x * normal_distribution(x);
    else if constexpr (kF == Activation::gelu_tanh)
      return x * sigmoid(x * (x * x * T(0.07135481627260024878) + T(1.5957691216057307118)));
    else
      return x * sigmoid(x);
  }
};

// kF of each lane of x, which is about to be stored as S.
template <class Isa, class T, class S, Activation kF>
inline typename Isa::template Vec<T> activate(typename Isa::template Vec<T> x) {
  using Vec = typename Isa::template Vec<T>;
  if constexpr (kF == Activation::none || (kF == Activation::relu && std::is_same_v<S, uint8_t>)) {
    return x;
  } else if constexpr (kF == Activation::relu && std::is_integral_v<T>) {  // computed unsigned: the sign is a bit of S
    constexpr T sign = T(1) << (8 * sizeof(S) - 1);
    return (x & sign) != T(0) ? Vec{} : x;
  } else if constexpr (kF == Activation::relu) {
    return x < T(0) ? Vec{} : x;
  } else {
    return Activations<Isa, T>::template apply<kF>(x);
  }
}

}  // namespace myops::cpu
