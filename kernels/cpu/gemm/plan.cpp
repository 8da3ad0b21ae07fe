// The planning rules. A threshold says what it was measured on; those that say nothing are round guesses.
#include "plan.h"

#include <sstream>
#include <utility>

namespace myops::cpu {
namespace {

// Per-core rates that decide when a second thread pays (GFLOP/s at full vectors; Zen 4, gcc 12, benchmarks/notes).
double rate(Compute c) {
  switch (c) {
    case Compute::f64: return 55;
    case Compute::u32: return 55;
    case Compute::u64: return 25;
    case Compute::bf16_dot:
    case Compute::i16_dot: return 200;
    case Compute::byte_dot: return 400;
    case Compute::matrix_unit: return 1000;
    default: return 110;
  }
}

constexpr double kBytesPerNs = 25;        // one core streaming from memory
constexpr double kParallelFromNs = 6000;  // a hot region costs 0.8 us, a cold one 10 us and more

constexpr int64_t kKeptBytes = 8 << 20;  // of packed A

bool unit(int64_t stride, int64_t extent) { return stride == 1 || extent == 1; }

// What is rounded to the result's own type after each chain is summed over at most this many terms. More terms are
// faster (D is read and written less often) and less exact: float32 has 1.2 times the rms error of MKL with 384, 1.6
// times with 512. 16-bit results round once, so there only L2 limits the panel.
int64_t chain_of(Compute c, DType in) {
  switch (c) {
    case Compute::u16:
    case Compute::bf16_dot:
    case Compute::i16_dot:
    case Compute::byte_dot: return 2048;
    case Compute::matrix_unit: return 4096 / element_size(in);  // the sums leave the unit slowly
    default: return is_16bit(in) ? 1024 : compute_bytes(c) == 4 ? 384 : 256;
  }
}

bool unit_takes(DType in, const IsaTraits& isa) { return in == DType::f16 ? isa.f16_unit : isa.matrix_unit; }

// Elements of the computing type in a vector, complex ones whole.
int64_t lanes_of(DType in, const IsaTraits& isa) { return isa.vector_bytes / max64(4, element_size(in)); }

// Elements of a column that a step of a dot product multiplies.
int64_t dot_step(DType in, const IsaTraits& isa) {
  if (is_byte(in) && isa.i8_dot) return isa.vector_bytes;
  return in == DType::bf16 || is_narrow_integer(in) ? isa.vector_bytes / 2 : lanes_of(in, isa);
}

// x @ W.T for few rows reads W once, in place, with a sum over lanes for every element of the result. Packing W turns
// it once for all rows: 1024 columns of float32 on one thread take 7 us and 8 packed where one row has 33 elements, 13
// and 14 where 8 rows have 64, 29 and 36 where 16 rows have 128; bfloat16 7 and 11 (1, 127), 14 and 14 (8, 127), 30 and
// 34 (16, 256); complex64 9 and 10 (1, 16), 21 and 23 (2, 64), 95 and 67 (8, 127) (Zen 5).
bool dots_pay(DType in, int64_t M, int64_t K, const IsaTraits& isa) {
  if (in == DType::f16 && !isa.converts_f16) return false;
  const int64_t step = dot_step(in, isa);
  const bool narrow = in == DType::bf16 || in == DType::i16 || (is_byte(in) && isa.i8_dot);
  const int64_t rows = is_complex(in)                     ? 4
                       : element_size(in) == 8            ? 8
                       : is_byte(in) && isa.matrix_unit   ? kMaxRows
                       : narrow || isa.vector_bytes == 64 ? 16
                                                          : 8;
  return M <= rows && K >= 2 * step && K >= M * (is_complex(in) ? 4 * step : min64(step / 2, 16));
}

// Whether x @ W of few columns is better as dot products: outer products leave lanes - N of a vector idle, dot products
// end with a sum over lanes. Columns and K from which they win: float32 4 and 48, 8 and 100, 12 and 250, by 2.3 times
// for 8 and 1024 (83 and 269 us natively of 1500 rows); bfloat16 8 and 200, 12 and 500 (Zen 5).
bool columns_fit_dots(const Gemm& g, const IsaTraits& isa) {
  const int64_t lanes = lanes_of(g.in, isa), step = dot_step(g.in, isa);
  return (lanes - g.N) * g.K >= 6 * lanes * g.N * min64(2, step / lanes) && dots_pay(g.in, g.N, g.K, isa);
}

}  // namespace

Arithmetic arithmetic(DType in, int64_t K, const IsaTraits& isa) {
  // A shorter K is mostly padding: 4096 products of 16^3 bfloat16 took 2.2 ms in the unit, 0.3 ms out of it.
  const bool fills_unit = unit_takes(in, isa) && K >= 32;
  Compute c;
  switch (in) {
    case DType::f64:
    case DType::c128: c = Compute::f64; break;
    case DType::i64: c = Compute::u64; break;
    case DType::f32:
    case DType::c64: c = Compute::f32; break;
    case DType::f16: c = fills_unit ? Compute::matrix_unit : Compute::f32; break;
    case DType::bf16: c = fills_unit ? Compute::matrix_unit : isa.bf16_dot ? Compute::bf16_dot : Compute::f32; break;
    case DType::i8:
    case DType::u8: c = fills_unit ? Compute::matrix_unit : isa.i8_dot ? Compute::byte_dot : Compute::i16_dot; break;
    case DType::i16: c = Compute::i16_dot; break;
    default: c = Compute::u32;
  }
  return {c, chain_of(c, in)};
}

Gemm canonical(const Gemm& g, const IsaTraits& isa) {
  if (g.b_panels) return g;
  // A column becomes a row, unless the rows of A are few, and too short to be read as vectors, so that they would have
  // to be packed. 1000 of M x K @ K x 1 on one thread, in us as rows and as columns: float32 15 x 8 40 and 36, 15 x
  // 16 46 and 77, 2 x 64 34 and 56; bfloat16 2 x 16 33 and 24, 8 x 8 33 and 51; int16 15 x 16 100 and 34, 8 x 32 82 and
  // 176; int64 15 x 64 127 and 95; complex64 2 x 16 44 and 25, 15 x 8 47 and 100 (Zen 5).
  const bool narrow = is_narrow_integer(g.in);
  const int64_t most = g.in == DType::i64 ? 1024 : is_16bit(g.in) || is_complex(g.in) ? 32 : narrow ? 240 : 120;
  const bool short_rows =
      g.M < 16 && unit(g.A.col_stride, g.K) && g.A.row_stride != 1 && g.M * g.K <= most && (!narrow || g.K <= 16);
  const bool column = g.N == 1 && g.M > 1 && !short_rows;
  const bool column_major = g.M > 1 && g.N > 1 && g.D.col_stride != 1 && g.D.row_stride == 1;
  // x @ W.T in a matrix unit: as W @ x.T the weight is read in place, and the few rows of x are what is packed.
  // 16x4096x4096 bfloat16 went from 2.5 to 0.86 ms. The result is scattered, which at 64 rows costs more than it saves.
  // Fewer rows take dot products, unless the order of the sums is given.
  const bool weight_first = is_16bit(g.in) && unit_takes(g.in, isa) && (g.M > 4 || g.batch_invariant) && g.M <= 32 &&
                            g.N > 2 * g.M && g.K >= 32 && g.B.row_stride == 1 && unit(g.A.col_stride, g.K);
  // Few columns become few rows: those of dot products, or x against a transposed A, which is then read along its rows
  // and not turned: 4096x8x2000 (M, N, K) float32 1.43 to 0.85 ms, bfloat16 1.17 to 0.41; 64 columns of bfloat16 2.5 to
  // 1.8, 230 of 4096x4096 14 to 11, but 64 of 1000x800 0.14 to 0.17, because the result is scattered (Zen 5).
  // Beside a matrix unit neither has been timed.
  constexpr int64_t kFew = 12;
  const bool direct_a = is_complex(g.in) || element_size(g.in) >= 4;
  const int64_t few = g.K < 64 ? 1 : direct_a ? kFew : min64(256, max64(kFew, g.K / 13));
  const bool few_columns = !g.batch_invariant && !isa.matrix_unit && g.N > 1 && g.N < g.M && g.D.row_stride != 1 &&
                           (unit(g.A.col_stride, g.K) ? columns_fit_dots(g, isa) : g.A.row_stride == 1 && g.N <= few);
  if (!column && !column_major && !weight_first && !few_columns) return g;
  Gemm t = g;
  std::swap(t.M, t.N);
  std::swap(t.A, t.B);
  for (MatrixView* v : {&t.A, &t.B, &t.C, &t.D}) std::swap(v->row_stride, v->col_stride);
  return t;
}

namespace {

// make_plan's problem as its steps see it, and the plan as far as they have made it.
struct Planner {
  const Gemm& g;
  const IsaTraits& isa;
  const int threads;
  Plan p = {};

  // Panels fix the order of the sums; integers are exact in any order.
  const bool ordered = g.b_panels || (g.batch_invariant && !is_integral(g.in));
  const bool sixteen_bit = is_16bit(g.in);
  const bool narrow_integer = is_narrow_integer(g.in);
  // Whether D is written, and C read, along rows, as the micro-kernel does.
  const bool writes_rows =
      unit(g.D.col_stride, g.N) &&
      (g.C.data == nullptr || (g.c_type == g.out && (unit(g.C.col_stride, g.N) || g.C.col_stride == 0)));
  const bool a_k_contiguous = unit(g.A.col_stride, g.K), b_k_contiguous = unit(g.B.row_stride, g.K);
  const bool b_n_contiguous = unit(g.B.col_stride, g.N);
  bool skinny = false;  // few enough rows to read a weight in place, tile after tile

  // Whether A and B are multiplied as they are stored, element by element.
  bool same_type() const { return !p.complex && group() == 1 && compute_bytes(p.compute) == element_size(g.in); }
  void compute_with(Compute c) {
    p.compute = c;
    p.lanes = isa.vector_bytes / compute_bytes(c);
  }
  int64_t panel() const { return static_cast<int64_t>(p.lanes) * isa.panel_vectors; }
  bool in_unit() const { return p.compute == Compute::matrix_unit && p.driver == Driver::tiled; }
  int group() const { return group_of(p.compute, g.in); }
  int64_t operand_bytes() const { return group() > 1 ? 4 / group() : compute_bytes(p.compute); }
  int max_rows() const { return in_unit() ? kUnitRows : p.tall > 0 ? p.tall : kMaxRows; }

  void choose_compute();
  bool sums_are_short() const;
  Compute in_place() const;
  bool takes_dots() const;
  void choose_packing();
  void choose_chain();
  void choose_tile();
  void choose_blocks();
  void choose_writing();
  void choose_parts();
};

void Planner::choose_compute() {
  p.complex = is_complex(g.in);
  // Rows of an odd length are packed, as pairs one by one, as float32 all at once: 100000 x 3 x 3 of bfloat16 on one
  // thread went from 234 to 105 us, 4096 x 9 x 16 from 14.3 to 11.4, of 17 nothing gained (Zen 5). In wider panels more
  // steps of float32 than of pairs cost more than that.
  const bool odd_rows =
      g.in == DType::bf16 && !ordered && g.K % 2 != 0 && g.K <= kShortRow && (g.N <= lanes_of(g.in, isa) || g.K == 1);
  compute_with(sums_are_short() ? Compute::u16 : odd_rows ? Compute::f32 : arithmetic(g.in, g.K, isa).compute);
  p.rows = p.complex ? 2 * g.M : g.M;
  p.cols = p.complex ? 2 * g.N : g.N;
  // Against packing: 16x4096x4096 of float32 3.6 and 2.3 ms in place, of bfloat16 2.0 and 1.7, 24 rows 4.1 and 3.8, 2.5
  // and 2.9 (Zen 5, two threads). A matrix unit overtakes from the second tile on, the packing of its B included, and
  // beside one three tiles have not been measured.
  const bool large = g.K * g.N > (1 << 18) && !isa.matrix_unit;
  skinny = g.M <= (p.compute == Compute::matrix_unit ? 1 : large ? 3 : 2) * kMaxRows;
}

// Integers of 8 and 16 bits, of which the result keeps no more, are summed modulo 2^16 where sums are so short that dot
// products do not pay for packing their operands in groups and narrowing what they sum: 1000 x K x 1000 int8 on one
// thread takes 38 us and as dot products 128 with K = 4 (natively 79), 134 and 165 with 24, 174 and 182 with 32, int16
// 292 and 361 with 64; 2000 x K x 16, half a vector, int16 8.7 and 10.3 with 16, 11.4 and 11.3 with 24. A transposed B
// is turned element by element: 16 x K x 2000 int8 9.1 and 9.4 with 8, 14.0 and 10.5 with 16 (Zen 5). Bytes that are
// multiplied as pairs of int16 (AVX2): 310 and 461 with 24, 754 and 817 with 64.
bool Planner::sums_are_short() const {
  if (!narrow_integer || g.out != g.in || g.b_panels) return false;
  if (is_byte(g.in) && (!writes_rows || g.activation != Activation::none)) return false;
  const int64_t longest = g.N <= lanes_of(g.in, isa) ? 16 : is_byte(g.in) && isa.i8_dot ? 24 : 64;
  return g.K <= longest && (b_n_contiguous || 2 * g.K <= g.M || g.K * g.N <= 1024);
}

// An inner product is one lane of a panel of B, a chain of additions: 100,000 terms of float32 took 107 us and 8.7 as a
// dot product, of float16 124 and 6.2, of int8 54 and 6.2. Of 64 terms in a batch 21 ns and 28, of 96 the same; of 32
// in float16 17 and 26, in complex64 57 and 20 (Zen 5).
bool Planner::takes_dots() const {
  const int64_t least = same_type() || g.in == DType::f16 ? 96 : 1;
  const bool columns = b_n_contiguous ? g.N == 1 && g.K >= least : b_k_contiguous;
  return !ordered && p.compute != Compute::u16 && b_k_contiguous && columns && dots_pay(g.in, g.M, g.K, isa);
}

// What B is computed with where it lies. Whole groups of rows become the lanes of dot products on the way; pairs of
// bfloat16 not on CPUs with a matrix unit, whose vectors multiply them no faster than float32.
Compute Planner::in_place() const {
  if (g.in == DType::bf16) return isa.bf16_dot && !isa.matrix_unit && g.K % 2 == 0 ? Compute::bf16_dot : Compute::f32;
  if (g.in == DType::f16) return Compute::f32;
  if (p.compute == Compute::u16 || (g.in == DType::i16 && g.K % 2 != 0)) return Compute::u16;
  if (g.in == DType::i16) return Compute::i16_dot;
  if (is_byte(g.in) && isa.i8_dot) return g.K % 4 == 0 ? Compute::byte_dot : Compute::u32;
  if (is_byte(g.in)) return g.K % 2 == 0 ? Compute::i16_dot : Compute::u32;
  return p.compute;
}

void Planner::choose_packing() {
  // B in place needs unit stride and a type that loads convert. A part of a vector is a branch where there are no masks
  // for free, which few rows outweigh: with AVX2 1x1000x1001 float32 went from 98 to 31 us, 17x509x257 from 34 to 25,
  // 48x3000x50 from 91 to 86, but 4096x64x3 from 21 to 25 (Zen 5).
  const bool loads_convert = skinny && (narrow_integer || (sixteen_bit && (!ordered || p.compute == in_place()) &&
                                                           (g.in == DType::bf16 || isa.converts_f16)));
  const bool parts = isa.masked_loads || g.M <= 8 * kMaxRows || p.cols % p.lanes == 0;
  const bool readable = b_n_contiguous && (same_type() || p.complex || loads_convert) && parts;
  // Reuse of a packed element is M / mr. Below, the second pass over B costs more than the strided reads, and with rows
  // of whole cache lines, not all on the same sets of L1, those cost little: 64x4000x64 float32 went from 283 to 234 us
  // in place, 64x768x768 from 620 to 590, 256^3 from 220 to 208, but 257^3 from 241 to 271 (Golden Cove). A weight from
  // memory is packed as soon as it is reused at all: in place it is read by short runs, tile after tile (48x3072x768
  // float32: 2.3 and 3.3 ms).
  const int64_t row_bytes = g.B.row_stride * element_size(g.in), b_bytes = g.K * g.N * element_size(g.in);
  const bool whole_lines = row_bytes % 64 == 0 && row_bytes % 4096 != 0;
  bool reused = g.M > 8 * kMaxRows;
  if (g.K * g.N > (1 << 20))
    reused = !skinny;
  else if (whole_lines)
    reused = g.M > 128 && b_bytes > (256 << 10);
  const bool worth_packing = g.N > panel() && reused;
  // Of a packed weight: widened in a block, once it is reused enough.
  const bool worth_widening = sixteen_bit && p.compute == Compute::f32 && g.M > 8 * kMaxRows;
  p.pack_b = g.b_panels ? worth_widening : !readable || worth_packing;
  if (!p.pack_b && !g.b_panels) compute_with(in_place());
  // A: what is not computed in its own type is converted; groups are read in place where they are whole and neighbours.
  const int64_t whole = group() * (p.compute == Compute::matrix_unit ? kUnitDepth : 1);
  const bool a_converts = !p.complex && operand_bytes() != element_size(g.in);
  const bool a_groups = group() > 1 && (!a_k_contiguous || g.K % whole != 0);
  // Narrow panels read A often: 512^3 complex64 with A transposed, two threads, from 6.3 to 4.7 ms in panels of 16, but
  // from 2.35 to 2.44 in panels of 64 (Zen 5).
  const bool a_far = !a_k_contiguous && p.cols > panel() && g.K > 32 && (!p.complex || panel() < 32);
  p.pack_a = p.compute != Compute::u16 && (a_converts || a_groups || a_far);
  p.rule = g.b_panels      ? "panels: B was packed before"
           : !readable     ? "packed B: layout or dtype cannot be read in place"
           : worth_packing ? "packed B: enough rows reuse it"
           : skinny        ? "B in place: few rows"
                           : "B in place: little reuse";
}

// The order of the sums, and how much of k is packed or read at a time. Where B streams from memory once, kc is the
// number of rows read side by side, each by a panel's width. The prefetcher of the machine follows few, so the driver
// asks for the next panel (b_ahead); with that, more rows are better: 16, 32, 64 and 128 of 1x768x768 bfloat16 on one
// thread took 77, 61, 40 and 44 us, of 1x4096x4096 float32 2.75, 2.78, 2.51 and 2.50 ms (Zen 5; Golden Cove was asked
// for 8 and 16 alone, 4.5 and 4.4 ms).
void Planner::choose_chain() {
  p.chain = p.kc = chain_of(p.compute, g.in);
  p.b_far = g.K * g.N > (1 << 16);
  if (!p.pack_b && !g.b_panels && skinny && p.b_far)
    p.kc = 64;
  else if (p.pack_b && b_n_contiguous && (sixteen_bit || group() > 1) && g.M <= 8 * kMaxRows && g.N > panel() &&
           g.K * g.N > (1 << 20))
    p.kc = 256;  // many panels fit L2 and are packed together, in long runs of each row
}

void Planner::choose_tile() {
  const bool wide = p.driver == Driver::tiled && p.rows == 1 && !p.pack_b && !g.b_panels;
  const int max_vectors = in_unit() ? kUnitVectors : wide ? wide_vectors(isa.panel_vectors) : isa.panel_vectors;
  const int64_t vectors = ceil_div(p.cols, p.lanes);
  int64_t panels = ceil_div(vectors, max_vectors);
  if (wide) panels = min64(ceil_div(panels, threads) * threads, ceil_div(vectors, isa.panel_vectors));
  p.nv = static_cast<int>(ceil_div(vectors, panels));
  // Fewer tiles are begun and ended: 100000x16x16 bfloat16 went from 124 to 99 us, 4096 of 16^3 from 164 to 127 (Zen
  // 5). Not where threads would go without one.
  const int tall = tall_rows(isa.panel_vectors);
  if (p.driver == Driver::tiled && !in_unit() && vectors == 1 && p.rows >= tall &&
      g.batch() * (p.rows / tall) >= (threads > 1 ? 2 * threads : 1))
    p.tall = tall;
  p.mr = p.tall > 0 ? p.tall : static_cast<int>(ceil_div(p.rows, ceil_div(p.rows, max_rows())));
  if (p.complex && p.mr % 2) ++p.mr;
}

// kc x nc of B stay in L2 while the blocks of A pass by it: 2048^3 float32 on one core ran at 172 GFLOP/s with blocks
// of 512 KB of A and 3 MB of B, at 194 with 128 to 150 KB and 768 KB (Golden Cove, 2 MB of L2; Zen 4 has 1 MB). CPUs of
// narrower vectors have less: 64x3072x768 float64 takes 13.8 ms with 768 KB and 11.4 to 12.2 with 384, 512^3 float32
// 2.39 and 2.22 (Zen 3, 512 KB); 192 and 256 KB are level with that, 128 slower.
void Planner::choose_blocks() {
  const int64_t width = static_cast<int64_t>(p.lanes) * (in_unit() ? kUnitVectors : isa.panel_vectors);
  const int64_t k_bytes = p.kc * operand_bytes();
  // Rows of A that meet a single panel come from L1 when they have been packed just before; not of a transposed A,
  // which is read by whole cache lines of rows.
  const int64_t a_block = p.cols <= width && (a_k_contiguous || !p.pack_a) ? 16 << 10 : 150 << 10;
  const int64_t b_block = p.pack_b && isa.panel_vectors == 2 ? 384 << 10 : 768 << 10;
  p.mc = min64(in_unit() ? kUnitTiles : max64(1, a_block / k_bytes / max_rows()), ceil_div(p.rows, max_rows())) *
         max_rows();
  p.nc = min64(max64(1, b_block / k_bytes / width), ceil_div(p.cols, width)) * width;
  // Sums of few terms are the writing of D: row by row, while all of B stays in L1, and not panel by panel.
  if (!p.pack_a && !in_unit() && g.N * element_size(g.out) >= 4096 && k_bytes * p.cols <= (24 << 10)) {
    p.mc = max_rows();
    p.d_far = g.M * g.N * element_size(g.out) > (8 << 20);
  }
  // Few rows against a k-contiguous B: what is packed is hardly reused, so the reading of B decides. All of a few
  // columns is long runs of memory; a block of all columns is short ones, each on a page of its own.
  if (p.pack_b && !g.b_panels && !b_n_contiguous && g.M <= 8 * kMaxRows && g.K > p.kc) {
    p.panels_first = true;
    p.nc = width;
  }
  // Packed A is met by block after block of panels: 2048^3 bfloat16 with A transposed took 72 ms with A packed for each
  // of them (38 natively). Kept in parts that L3 holds, each of which packs its own B.
  p.keep_a = p.driver == Driver::tiled && p.pack_a && p.nc < p.cols && !p.panels_first;
}

// Whether the micro-kernel writes D and reads C.
void Planner::choose_writing() {
  const bool d_same = p.complex || compute_bytes(p.compute) == element_size(g.out);
  // Between chains the sums wait in D, which must not be what is added to them at the end.
  const bool d_waits = g.K <= p.chain || g.C.data == nullptr || g.C.data != g.D.data;
  // Rounded in the micro-kernel. Panels of 16-bit floats that are not multiplied as such have kernels for float32 only.
  const bool narrow_d = (sixteen_bit || p.compute == Compute::u16) && g.out == g.in && g.K <= p.kc &&
                        (!g.b_panels || p.pack_b || group() > 1) && g.activation == Activation::none;
  p.direct_d = p.driver == Driver::tiled && ((d_same && d_waits) || narrow_d) && writes_rows;
}

// Threads: over the batch, then over a grid of M x N parts that packs least and balances best.
void Planner::choose_parts() {
  const double flops = 2.0 * p.rows * g.N * g.K * g.batch() * (p.complex ? 2 : 1);
  const double bytes =
      static_cast<double>(element_size(g.in)) * g.batch() *
      (static_cast<double>(g.M) * g.K + static_cast<double>(g.K) * g.N + static_cast<double>(g.M) * g.N);
  const double serial_ns = flops / rate(p.compute) + bytes / kBytesPerNs;
  p.parallel = threads > 1 && serial_ns > kParallelFromNs;
  if (p.parallel && g.batch() % threads != 0 && g.batch() < 4 * threads) {
    // Kept rows of A are packed by every part of N again: 1024^3 bfloat16 with A transposed 2.37 to 2.25 ms.
    const double a_cost = p.keep_a ? 0.8 : p.pack_a ? 0.4 : 0.1, b_cost = p.pack_b ? 0.4 : 0.1;
    const int64_t m_units = ceil_div(p.rows, p.mr), n_units = ceil_div(ceil_div(p.cols, p.lanes), p.nv);
    double best = 0;
    for (int64_t tm = 1; tm <= threads; ++tm) {
      // Memory that is written is each thread's own: 2048x1x2048 float32 from 540 to 450 us.
      if (threads % tm || (p.d_far && tm < threads)) continue;
      const int64_t tn = threads / tm;
      const double rows = static_cast<double>(ceil_div(m_units, tm)) * p.mr,
                   cols = static_cast<double>(ceil_div(n_units, tn)) * p.nv * p.lanes;
      const double cost = 2 * rows * cols / rate(p.compute) + rows * a_cost + cols * b_cost;
      if (best == 0 || cost < best) {
        best = cost;
        p.tasks_m = min64(tm, m_units);
        p.tasks_n = min64(tn, n_units);
      }
    }
  }
  if (p.keep_a) {
    const int64_t kept_rows = max64(kKeptBytes / (p.kc * operand_bytes()), 1);
    p.tasks_m = max64(p.tasks_m, min64(ceil_div(p.rows, p.mr), ceil_div(p.rows, kept_rows)));
  }
}

}  // namespace

Plan make_plan(const Gemm& g, const IsaTraits& isa, int threads) {
  Planner plan{g, isa, threads};
  Plan& p = plan.p;
  plan.choose_compute();
  if (plan.takes_dots()) {
    p.driver = Driver::dot;
    p.rule = "dot: few rows against a k-contiguous B";
    p.chain = p.kc = g.K;
    p.pack_a = !plan.a_k_contiguous;
  } else {
    plan.choose_packing();
    plan.choose_chain();
  }
  p.kc = max64(1, min64(p.kc, g.K));
  p.chain = max64(1, min64(p.chain, g.K));
  plan.choose_tile();
  plan.choose_blocks();
  plan.choose_writing();
  plan.choose_parts();
  return p;
}

std::string Plan::text() const {
  static const char* const computes[] = {"f32",      "f64",     "u16",      "u32",        "u64",
                                         "bf16_dot", "i16_dot", "byte_dot", "matrix_unit"};
  std::ostringstream s;
  s << (driver == Driver::dot ? "dot" : "tiled") << " compute=" << computes[static_cast<int>(compute)]
    << (complex ? " complex" : "") << " tile=" << mr << "x" << nv * lanes << (tall > 0 ? " tall" : "")
    << " pack=" << (pack_a ? "A" : "") << (pack_b ? "B" : "") << (keep_a ? " keep-a" : "") << " chain=" << chain
    << " kc=" << kc << (panels_first ? " panels-first" : "") << " mc=" << mc << " nc=" << nc << " direct_d=" << direct_d
    << " parts=" << tasks_m << "x" << tasks_n << (parallel ? " parallel" : " serial") << " rule=\"" << rule << '"';
  return s.str();
}

}  // namespace myops::cpu
