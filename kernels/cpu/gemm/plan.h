// Planning: a pure function from the problem, the ISA and the thread count to a small struct of choices.
//
// Not here: any kernel, any pointer that is read. tests/test_plan.py pins decisions for every ISA on any host.
//
// The product of one batch item is cut as in every GEMM since GotoBLAS:
//
//            N                     panel: up to nv vectors wide        tile: up to mr rows of one panel,
//        +---------+               +--+--+--+-+                              the accumulators of one
//      K | B  kc   |    kc rows    |  |  |  | |   packed or in place         micro-kernel call
//        +---------+               +--+--+--+-+
//
// Panels and tiles are balanced: 80 columns of 16 lanes are 48 + 32, never 64 + 16.
//
// The order of a sum: k ascending in chains of `chain` terms, the chains added up in turn, alpha and beta * C at the
// end. A chain may be computed in blocks of kc, each going on where the one before stopped, which changes no bit. So
// what decides a result's bits is the driver, the way to compute and the chain, and none of them looks at the thread
// count. In a batch-invariant problem they look at nothing but dtype, K and the ISA (`arithmetic`).
#pragma once
#include <cstdint>
#include <string>

#include "../../matrix_view.h"

namespace myops::cpu {

enum class Driver : int8_t {
  tiled,  // outer products: accumulators hold a tile of D, k is the outer loop
  dot,    // dot products along k, vectors along k: B has unit stride along k and M is small
};

// How the operands are computed with.
enum class Compute : int8_t { f32, f64, u16, u32, u64, bf16_dot, i16_dot, byte_dot, matrix_unit };

struct IsaTraits {
  const char* name;
  int vector_bytes;
  int panel_vectors;  // widest panel, in vectors
  bool masked_loads;  // a part of a vector is read as fast as a whole one, and nothing behind it is touched
  bool converts_f16;  // loads of float16 vectors convert in hardware
  bool bf16_dot;      // multiplies pairs of bfloat16 into float32
  bool i8_dot;        // multiplies quadruples of uint8 by int8 into int32
  bool matrix_unit;   // multiplies tiles of bfloat16 and of bytes
  bool f16_unit;      // and of float16
};

// Every level, so that plans of each can be made on any machine; make_engine checks them against the level's own code.
enum class Level : int8_t { baseline, avx2, avx512, avx512_bf16, amx, amx_fp16, neon };
constexpr IsaTraits kLevels[] = {
    {"baseline", 16, 2, false, false, false, false, false, false},
    {"avx2", 32, 2, false, true, false, false, false, false},
    {"avx512", 64, 4, true, true, false, false, false, false},
    {"avx512_bf16", 64, 4, true, true, true, true, false, false},
    {"amx", 64, 4, true, true, true, true, true, false},
    {"amx_fp16", 64, 4, true, true, true, true, true, true},
    {"neon", 16, 4, false, true, false, false, false, false},
};

constexpr int kMaxRows = 6;  // rows of a tile: 6 x 4 vectors + 4 + 1 of 32 registers; 6 x 2 + 2 + 1 of 16
// Rows of a tile where all of N is one vector: registers that a narrow panel leaves free. Two vectors gain nothing.
constexpr int tall_rows(int panel_vectors) { return panel_vectors == 4 ? 16 : 12; }
// Vectors of a panel of a single row, whose accumulators leave room for them: longer runs of what is read in place.
constexpr int wide_vectors(int panel_vectors) { return panel_vectors == 4 ? 16 : 8; }
constexpr int kUnitRows = 32, kUnitVectors = 2;  // of a tile in a matrix unit
constexpr int kUnitDepth = 16;                   // steps that a panel for it is padded to
constexpr int kUnitSlice = 8 * kUnitDepth;       // steps of a panel (16 KB) that stay in L1 ...
constexpr int kUnitTiles = 4;                    // ... while so many tiles pass by it, and their sums (16 KB)

constexpr int kShortRow = 15;  // of converted A: up to so many elements, rows lie side by side

// Neighbours along k that a step multiplies, in 32 bits.
constexpr int group_of(Compute c, DType in) {
  switch (c) {
    case Compute::bf16_dot:
    case Compute::i16_dot: return 2;  // bytes become int16
    case Compute::byte_dot: return 4;
    case Compute::matrix_unit: return 4 / element_size(in);
    default: return 1;
  }
}

constexpr int compute_bytes(Compute c) {
  return c == Compute::f64 || c == Compute::u64 ? 8 : c == Compute::u16 ? 2 : 4;
}
constexpr bool is_byte(DType in) { return in == DType::i8 || in == DType::u8; }
constexpr bool is_narrow_integer(DType in) { return is_byte(in) || in == DType::i16; }
constexpr bool is_16bit(DType in) { return in == DType::bf16 || in == DType::f16; }

// What the bits of a result depend on beside its operands, for a given dtype, K and ISA.
struct Arithmetic {
  Compute compute;
  int64_t chain;
};
Arithmetic arithmetic(DType in, int64_t K, const IsaTraits& isa);

struct Plan {
  Driver driver = Driver::tiled;
  Compute compute = Compute::f32;
  bool complex = false;  // B is read as a real matrix of twice the width, A as one of twice the height
  bool pack_a = false, pack_b = false;
  bool keep_a = false;        // all rows of a packed block of k are kept for every block of panels
  bool b_far = false;         // B does not stay in L2 between calls: what is read next of it is asked for
  bool d_far = false;         // nor does D, which little else is done than writing of
  bool panels_first = false;  // a block of panels at a time through all of k, not a block of k through all panels
  bool direct_d = false;      // the micro-kernel writes D (and reads C) itself
  int lanes = 1;              // elements of the compute type in a vector
  int mr = kMaxRows, nv = 1;  // largest tile
  int tall = 0;               // rows of the tall tiles that come before the others; 0: none
  int64_t mc = 0, nc = 0, kc = 0;
  int64_t chain = 0;                 // a multiple of kc, or K
  int64_t rows = 0, cols = 0;        // of the real problem: M or 2 M, N or 2 N
  int64_t tasks_m = 1, tasks_n = 1;  // parts of one batch item that run in parallel
  bool parallel = false;
  const char* rule = "";  // why this driver and this packing

  std::string text() const;
};

// Transposes the problem (D^T = B^T A^T) where that gives D unit stride along its rows, makes a column a row, or lets a
// matrix unit read the large operand in place.
Gemm canonical(const Gemm& g, const IsaTraits& isa);
// Requires a canonical problem with M, N, batch >= 1.
Plan make_plan(const Gemm& g, const IsaTraits& isa, int threads);

// [0, n) in `parts` nearly equal parts, the larger ones first. Divides once, not at every tile.
struct Split {
  int64_t base, extra;
  Split(int64_t n, int64_t parts) : base(n / parts), extra(n % parts) {}
  int64_t begin(int64_t i) const { return base * i + (i < extra ? i : extra); }
};
static inline int64_t part_begin(int64_t n, int64_t parts, int64_t i) { return Split(n, parts).begin(i); }
static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

}  // namespace myops::cpu
