// Which kernel computes a product, and how it is cut up: a pure function of the problem and the machine, plain C++.
//
// Not here: the kernels (tile.cuh, skinny.cuh, tiny.cuh, mma_tile.cuh, wgmma_tile.cuh, pack.cu), the launch (gemm.cu).
//
//   tile     D (M x N) is cut into tiles_m x tiles_n tiles per batch item. A block computes one tile at a time over the
//            whole of K, in ascending order. Any dtype, any stride.
//   skinny   One side of D is at most kSkinnyRows, so the product is a walk through the other operand, once. Lanes,
//            warps and blocks share K; their partial sums are added in a fixed order, over blocks by a second pass.
//   tiny     Thousands of matrices of side 32 at most: several to a block. The sums of tile, bit for bit.
//   mma      tile on tensor cores, for 16-bit floats and 8-bit integers. An operand that is not aligned to 16 bytes is
//            first packed into the workspace.
//   wgmma    The same for 16-bit floats on a Hopper, by its own instructions.
//
// There is no atomic: equal calls give equal bits. Where the problem is batch_invariant, nothing that orders a sum
// depends on M, N, the batch or strides.
//
// Tiles of all items are numbered in one 64-bit index (tile_at), so that neither the batch nor a side is bound by the
// 65535 of grid.y and grid.z; blocks walk that index in steps of the grid.
#pragma once
#include <string>

#include "../../matrix_view.h"

namespace myops {

enum class TileSize : int8_t { small, large };

// A block computes m x n results in steps of k; each thread owns thread_m x thread_n of them.
struct TileShape {
  int m, n, k, thread_m, thread_n;

  constexpr int threads() const { return m / thread_m * (n / thread_n); }
};

// Per accumulator width. Both sizes of a row share k, so that padding the last step adds the same zeros. The bounds are
// 48 KB of static shared memory for two stages and 255 registers. Rows are guesses until they meet a GPU.
// Tried on the 128 x 128 tile: a bound of 128 registers, for two blocks per multiprocessor, spills 70 to 150 bytes with
// k = 16 and 50 to 60 with k = 8.
constexpr TileShape tile_shape(DType in, TileSize size) {
  const bool large = size == TileSize::large;
  if (in == DType::c128) return large ? TileShape{64, 64, 8, 4, 4} : TileShape{32, 32, 8, 4, 4};
  if (element_size(in) == 8) return large ? TileShape{64, 64, 16, 4, 4} : TileShape{32, 32, 16, 4, 4};
  return large ? TileShape{128, 128, 16, 8, 8} : TileShape{32, 32, 16, 4, 4};
}

constexpr int64_t kMaxBlocks = 2147483647;  // of grid.x
constexpr int kRasterRows = 8;              // tile rows that share the columns of B in the L2 cache; guess

constexpr int kSkinnyRows = 16;    // the most rows of a skinny product
constexpr int kSkinnyWarps = 8;    // of a block
constexpr int kSkinnyColumns = 4;  // of a lane; along K, as many loads are in flight
constexpr int kSkinnyUnroll = 4;   // values of K that a lane takes at once where it walks along N

// How a skinny product walks through B (skinny.cuh).
enum class SkinnyForm : int8_t { along_n, along_k, tensor };
constexpr SkinnyForm skinny_form(DType in, bool b_along_k) {
  return !b_along_k ? SkinnyForm::along_n : element_size(in) == 2 ? SkinnyForm::tensor : SkinnyForm::along_k;
}
// Columns of one lane; where lanes share columns, those of a warp over its lanes along N. Four of 16 bits, although a
// load may have eight: the sums of 16 rows by eight columns leave no registers for loads in flight (8 bytes spilled).
constexpr int skinny_lane_columns(DType in, SkinnyForm form) {
  if (form == SkinnyForm::tensor) return 2;
  return form == SkinnyForm::along_n && element_size(in) == 8 ? 2 : kSkinnyColumns;
}
constexpr int kSkinnyTensorStep = 32 * kSkinnyUnroll;  // values of K that a warp takes at once in the form `tensor`

constexpr int kTinySide = 32;

// A block of warps_m x warps_n warps computes m x n results on tensor cores. 64 x 32 per warp is the most that leaves
// registers for two sets of fragments. Guesses.
struct MmaShape {
  int m, n, warps_m, warps_n;
};
constexpr MmaShape mma_shape(TileSize size) {
  return size == TileSize::large ? MmaShape{128, 128, 2, 4} : MmaShape{64, 64, 2, 2};
}

// Tiles of a Hopper: 128 rows, 64 to a consumer warpgroup, which has registers for 256 columns. Not yet measured.
constexpr int kWgmmaTileM = 128;
constexpr int wgmma_tile_n(TileSize size) { return size == TileSize::large ? 256 : 128; }
constexpr int kWgmmaBatchDims = 3;  // of a tensor map beside its matrix

enum class GemmKernel : int8_t { tile, skinny, tiny, mma, wgmma };

// What a plan depends on beside the problem.
struct Machine {
  int multiprocessors = 1;
  int capability = 80;  // 90: Hopper
};

struct GemmPlan {
  GemmKernel kernel = GemmKernel::tile;
  TileSize size = TileSize::small;
  bool transpose = false;                       // compute D^T = B^T A^T; what follows is of the transposed problem
  bool a_along_k = true;                        // neighbouring threads load neighbours along K (else along M)
  bool b_along_k = false;                       // the same for B (else along N)
  bool a_packed = false, b_packed = false;      // 16 bytes at once, along that direction
  int64_t tiles_m = 0, tiles_n = 0, tiles = 0;  // tiles: of the whole batch
  int64_t blocks = 0;
  // skinny
  int lanes_k = 0, warps_k = 0;  // how many lanes of a warp and warps of a block share K
  int64_t splits = 1, split_k = 0;
  // mma, wgmma: bytes of the workspace that packed operands take, A first; 0: it is taken as it is
  int64_t a_pack_bytes = 0, b_pack_bytes = 0;
  int64_t workspace_bytes = 0;
};

MYOPS_HOST_DEVICE constexpr int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Whether every group of `bytes` neighbours along the unit stride is one aligned access: rows of a view that runs along
// its columns, columns of one that runs along its rows.
inline bool is_packed(const Gemm& g, const MatrixView& v, bool along_columns, int bytes) {
  const int64_t elements = bytes / element_size(g.in);
  const int64_t unit = along_columns ? v.col_stride : v.row_stride, other = along_columns ? v.row_stride : v.col_stride;
  bool aligned = elements > 1 && unit == 1 && other % elements == 0 && reinterpret_cast<uintptr_t>(v.data) % bytes == 0;
  for (int i = 0; i < g.batch_dims; ++i) aligned &= v.batch_stride[i] % elements == 0;
  return aligned;
}

inline void swap_matrix_dims(MatrixView& v) {
  const int64_t stride = v.row_stride;
  v.row_stride = v.col_stride;
  v.col_stride = stride;
}

// The problem D^T = alpha * B^T A^T + beta * C^T.
inline Gemm transposed(const Gemm& g) {
  Gemm t = g;
  t.M = g.N, t.N = g.M;
  t.A = g.B, t.B = g.A;
  for (MatrixView* v : {&t.A, &t.B, &t.C, &t.D}) swap_matrix_dims(*v);
  return t;
}

// The items of a batch that have index i in the outermost batch dimension.
inline Gemm outer_item(const Gemm& g, int64_t i) {
  Gemm item = g;
  --item.batch_dims;
  for (MatrixView* v : {&item.A, &item.B, &item.C, &item.D}) {
    const DType type = v == &item.C ? g.c_type : v == &item.D ? g.out : g.in;
    if (v->data != nullptr) v->data = static_cast<char*>(v->data) + i * v->batch_stride[0] * element_size(type);
    for (int d = 0; d < item.batch_dims; ++d) v->batch_stride[d] = v->batch_stride[d + 1];
  }
  for (int d = 0; d < item.batch_dims; ++d) item.batch_size[d] = g.batch_size[d + 1];
  return item;
}

// Whether neighbouring threads should take neighbours along K rather than along the other dimension of an operand.
inline bool loads_along_k(int64_t k_stride, int64_t k_size, int64_t other_stride, int64_t other_size) {
  if (k_size == 1 || other_stride == 1) return other_size == 1 && k_size != 1;
  if (other_size == 1 || k_stride == 1) return true;
  const int64_t k = k_stride < 0 ? -k_stride : k_stride, other = other_stride < 0 ? -other_stride : other_stride;
  return k < other;
}

// The plan with a given tile.
inline GemmPlan plan_with_tile(const Gemm& problem, TileSize size, int64_t max_blocks = kMaxBlocks) {
  GemmPlan plan;
  plan.size = size;
  // A complex product is never transposed: its imaginary part is summed in the order of the operands, and the bits of a
  // row would depend on the strides of D.
  plan.transpose = !is_complex(problem.in) && problem.M > 1 && problem.D.row_stride == 1 && problem.D.col_stride != 1;
  const Gemm g = plan.transpose ? transposed(problem) : problem;
  plan.a_along_k = loads_along_k(g.A.col_stride, g.K, g.A.row_stride, g.M);
  plan.b_along_k = loads_along_k(g.B.row_stride, g.K, g.B.col_stride, g.N);
  const TileShape shape = tile_shape(g.in, size);
  plan.tiles_m = (g.M + shape.m - 1) / shape.m;
  plan.tiles_n = (g.N + shape.n - 1) / shape.n;
  plan.tiles = plan.tiles_m * plan.tiles_n * g.batch();
  plan.blocks = plan.tiles < max_blocks ? plan.tiles : max_blocks;
  return plan;
}

// Rounds of tiles that the busiest multiprocessor computes, weighted by tile area; a small tile reads twice as much
// shared memory per product (guess: half the rate).
inline double plan_cost(const Gemm& problem, const GemmPlan& plan, int multiprocessors) {
  const TileShape shape = tile_shape(problem.in, plan.size);
  const double rounds = static_cast<double>((plan.tiles + multiprocessors - 1) / multiprocessors);
  return rounds * shape.m * shape.n * (plan.size == TileSize::large ? 1.0 : 2.0);
}

inline GemmPlan plan_tile(const Gemm& problem, const Machine& machine) {
  const GemmPlan small = plan_with_tile(problem, TileSize::small);
  const GemmPlan large = plan_with_tile(problem, TileSize::large);
  const int n = machine.multiprocessors;
  return plan_cost(problem, large, n) < plan_cost(problem, small, n) ? large : small;
}

// Blocks that hide the latency of memory: enough loads in flight on every multiprocessor. Guess.
constexpr int kSkinnyBlocksEach = 2;

inline GemmPlan plan_skinny(const Gemm& problem, const Machine& machine) {
  GemmPlan plan;
  plan.kernel = GemmKernel::skinny;
  plan.transpose = problem.N < problem.M;
  const Gemm g = plan.transpose ? transposed(problem) : problem;
  const int vector = 16 / element_size(g.in);
  plan.b_along_k = loads_along_k(g.B.row_stride, g.K, g.B.col_stride, g.N);
  plan.a_along_k = true;
  plan.a_packed = is_packed(g, g.A, true, 16);
  const SkinnyForm form = skinny_form(g.in, plan.b_along_k);
  const bool along_n = form == SkinnyForm::along_n;
  plan.b_packed = is_packed(g, g.B, along_n, along_n ? skinny_lane_columns(g.in, form) * element_size(g.in) : 16);
  plan.lanes_k = 4;
  if (form == SkinnyForm::along_k)
    while (plan.lanes_k < 32 && plan.lanes_k * vector < g.K) plan.lanes_k *= 2;
  const int64_t warp_columns = 32 / plan.lanes_k * skinny_lane_columns(g.in, form);
  const int64_t step = form == SkinnyForm::tensor    ? kSkinnyTensorStep  // along K, of one warp
                       : form == SkinnyForm::along_k ? plan.lanes_k * vector
                                                     : plan.lanes_k * kSkinnyUnroll;
  const int64_t steps = ceil_divide(g.K, step), wanted = kSkinnyBlocksEach * machine.multiprocessors;
  // First as many columns as there are, then K is shared by the warps, then by blocks: each stage costs a reduction. A
  // warp keeps two steps, so that a load is in flight while the other is used.
  const auto tiles_n = [&](int warps_k) { return ceil_divide(g.N, warp_columns * (kSkinnyWarps / warps_k)); };
  plan.warps_k = 1;
  while (plan.warps_k < kSkinnyWarps && tiles_n(plan.warps_k) * g.batch() < wanted && steps >= 4 * plan.warps_k)
    plan.warps_k *= 2;
  plan.tiles_m = 1;
  plan.tiles_n = tiles_n(plan.warps_k);
  const int64_t columns_of_blocks = plan.tiles_n * g.batch();
  int64_t splits = 1;
  if (columns_of_blocks > 0 && columns_of_blocks < wanted) {
    const int64_t most = steps / (2 * plan.warps_k);
    splits = wanted / columns_of_blocks;  // rounded down: a second pass for a few blocks more does not pay
    if (splits > most) splits = most;
    if (splits < 1) splits = 1;
  }
  plan.split_k = ceil_divide(steps, splits * plan.warps_k) * plan.warps_k * step;
  plan.splits = g.K == 0 ? 1 : ceil_divide(g.K, plan.split_k);
  plan.tiles = columns_of_blocks * plan.splits;
  plan.blocks = plan.tiles < kMaxBlocks ? plan.tiles : kMaxBlocks;
  if (plan.splits > 1) plan.workspace_bytes = plan.splits * g.batch() * g.M * g.N * (g.in == DType::f64 ? 8 : 4);
  return plan;
}

// The threads of a block of tiny products, and their side rounded up. A thread owns 4 x 4 results.
constexpr int tiny_threads(DType in) { return element_size(in) == 8 ? 64 : 128; }
constexpr int tiny_items(DType in, int side) { return tiny_threads(in) / (side / 4 * (side / 4)); }
inline int tiny_side(const Gemm& g) {
  int side = 4;
  while (side < g.M || side < g.N) side *= 2;
  return side;
}

inline GemmPlan plan_tiny(const Gemm& problem) {
  GemmPlan plan;
  plan.kernel = GemmKernel::tiny;
  plan.transpose = problem.M > 1 && problem.D.row_stride == 1 && problem.D.col_stride != 1;
  const Gemm g = plan.transpose ? transposed(problem) : problem;
  plan.a_along_k = loads_along_k(g.A.col_stride, g.K, g.A.row_stride, g.M);
  plan.b_along_k = loads_along_k(g.B.row_stride, g.K, g.B.col_stride, g.N);
  // A group of neighbours must not run over the end of its row.
  const int side = tiny_side(g), bytes = side == 4 && element_size(g.in) == 2 ? 8 : 16;
  const int64_t vector = bytes / element_size(g.in);
  plan.a_packed = (plan.a_along_k ? g.K : g.M) % vector == 0 && is_packed(g, g.A, plan.a_along_k, bytes);
  plan.b_packed = (plan.b_along_k ? g.K : g.N) % vector == 0 && is_packed(g, g.B, !plan.b_along_k, bytes);
  plan.tiles = ceil_divide(g.batch(), tiny_items(g.in, side));
  plan.blocks = plan.tiles < kMaxBlocks ? plan.tiles : kMaxBlocks;
  return plan;
}

inline bool takes_tiny(const Gemm& g, const Machine& machine) {
  return is_floating(g.in) && g.M <= kTinySide && g.N <= kTinySide && g.K <= 2 * kTinySide &&
         g.batch() >= 2 * machine.multiprocessors;
}

inline bool takes_skinny(const Gemm& problem) {
  if (!is_floating(problem.in) || (problem.M > kSkinnyRows && problem.N > kSkinnyRows)) return false;
  const Gemm g = problem.N < problem.M ? transposed(problem) : problem;
  if (loads_along_k(g.B.row_stride, g.K, g.B.col_stride, g.N) && g.K < 4 * (16 / element_size(g.in))) return false;
  // Stores run along N. Where that is not the unit stride of D, the sums have to be long enough to outweigh them.
  return g.D.col_stride == 1 || g.N == 1 || g.K >= 8 * g.M;
}

// ---- Tensor cores --------------------------------------------------------------------------------------------------

// An operand seen as lines (rows of A, columns of B) by K, and the copy of it that is aligned. Rows of `from` and `to`
// are lines. A batch dimension of stride 0 has one item here.
struct PackOperand {
  MatrixView from, to;
  bool from_along_k = true, to_along_k = true;
  int64_t lines = 0, K = 0, items = 1;
  int batch_dims = 0;
  int64_t batch_size[kMaxBatchDims] = {};
  int64_t bytes = 0;
};

inline PackOperand pack_operand_plan(const Gemm& g, const MatrixView& v, bool is_a, bool from_along_k,
                                     bool to_along_k) {
  PackOperand p;
  p.from = p.to = v;
  if (!is_a) swap_matrix_dims(p.from);
  p.from_along_k = from_along_k, p.to_along_k = to_along_k;
  p.lines = is_a ? g.M : g.N, p.K = g.K;
  const int64_t unit = 16 / element_size(g.in), pitch = ceil_divide(to_along_k ? p.K : p.lines, unit) * unit;
  p.to.row_stride = to_along_k ? pitch : 1, p.to.col_stride = to_along_k ? 1 : pitch;
  int64_t step = pitch * (to_along_k ? p.lines : p.K);
  p.batch_dims = g.batch_dims;
  for (int i = g.batch_dims - 1; i >= 0; --i) {
    p.batch_size[i] = v.batch_stride[i] == 0 ? 1 : g.batch_size[i];
    p.to.batch_stride[i] = v.batch_stride[i] == 0 ? 0 : step;
    step *= p.batch_size[i];
    p.items *= p.batch_size[i];
  }
  p.bytes = ceil_divide(step * element_size(g.in), 256) * 256;
  return p;
}

// The same of `problem` transposed as the plan says. Bytes have no transposing load: their operands run along K.
inline PackOperand pack_a(const Gemm& g, const GemmPlan& plan) {
  return pack_operand_plan(g, g.A, true, loads_along_k(g.A.col_stride, g.K, g.A.row_stride, g.M), plan.a_along_k);
}
inline PackOperand pack_b(const Gemm& g, const GemmPlan& plan) {
  return pack_operand_plan(g, g.B, false, loads_along_k(g.B.row_stride, g.K, g.B.col_stride, g.N), plan.b_along_k);
}

// The plan of a tensor-core kernel with a given tile.
inline GemmPlan plan_tensor(const Gemm& problem, GemmKernel kernel, TileSize size, int multiprocessors) {
  GemmPlan plan;
  plan.kernel = kernel;
  plan.size = size;
  plan.transpose = problem.M > 1 && problem.D.row_stride == 1 && problem.D.col_stride != 1;
  const Gemm g = plan.transpose ? transposed(problem) : problem;
  const bool bytes = element_size(g.in) == 1;
  plan.a_along_k = bytes || loads_along_k(g.A.col_stride, g.K, g.A.row_stride, g.M);
  plan.b_along_k = bytes || loads_along_k(g.B.row_stride, g.K, g.B.col_stride, g.N);
  // A tensor map has no rows that are one row repeated.
  const auto repeats = [&](int64_t stride, int64_t size) {
    return kernel == GemmKernel::wgmma && stride == 0 && size > 1;
  };
  plan.a_packed = is_packed(g, g.A, plan.a_along_k, 16) &&
                  !repeats(plan.a_along_k ? g.A.row_stride : g.A.col_stride, plan.a_along_k ? g.M : g.K);
  plan.b_packed = is_packed(g, g.B, !plan.b_along_k, 16) &&
                  !repeats(plan.b_along_k ? g.B.col_stride : g.B.row_stride, plan.b_along_k ? g.N : g.K);
  if (!plan.a_packed) plan.a_pack_bytes = pack_a(g, plan).bytes;
  if (!plan.b_packed) plan.b_pack_bytes = pack_b(g, plan).bytes;
  plan.workspace_bytes = plan.a_pack_bytes + plan.b_pack_bytes;
  const MmaShape shape = mma_shape(size);
  const bool hopper = kernel == GemmKernel::wgmma;
  plan.tiles_m = ceil_divide(g.M, hopper ? kWgmmaTileM : shape.m);
  plan.tiles_n = ceil_divide(g.N, hopper ? wgmma_tile_n(size) : shape.n);
  plan.tiles = plan.tiles_m * plan.tiles_n * g.batch();
  const int64_t most = hopper ? multiprocessors : kMaxBlocks;  // wgmma: a block stays, and has a multiprocessor alone
  plan.blocks = plan.tiles < most ? plan.tiles : most;
  return plan;
}

// Rounds of tiles that the busiest multiprocessor computes, weighted by area and by what the kernel loses against wgmma
// with its large tile. The weights are guesses until they meet a GPU.
inline GemmPlan plan_tensor_cores(const Gemm& problem, const Machine& machine) {
  struct Candidate {
    GemmKernel kernel;
    TileSize size;
    double weight;
  };
  constexpr Candidate kCandidates[] = {{GemmKernel::wgmma, TileSize::large, 1.0},
                                       {GemmKernel::wgmma, TileSize::small, 1.15},
                                       {GemmKernel::mma, TileSize::large, 1.6},
                                       {GemmKernel::mma, TileSize::small, 2.4}};
  constexpr int64_t kMostCoordinates = int64_t(1) << 31;  // of a tensor map's dimension
  const bool hopper = machine.capability == 90 && is_floating(problem.in) && problem.batch_dims <= kWgmmaBatchDims &&
                      problem.M < kMostCoordinates - kWgmmaTileM && problem.N < kMostCoordinates - 256 &&
                      problem.K < kMostCoordinates - 64;
  GemmPlan best;
  double best_cost = 0;
  for (const Candidate& c : kCandidates) {
    if (c.kernel == GemmKernel::wgmma ? !hopper : hopper && problem.batch_invariant) continue;
    const GemmPlan plan = plan_tensor(problem, c.kernel, c.size, machine.multiprocessors);
    const double area = c.kernel == GemmKernel::wgmma ? double(kWgmmaTileM) * wgmma_tile_n(c.size)
                                                      : double(mma_shape(c.size).m) * mma_shape(c.size).n;
    const double cost = double(ceil_divide(plan.tiles, machine.multiprocessors)) * area * c.weight;
    if (best.tiles == 0 || cost < best_cost) best = plan, best_cost = cost;
  }
  return best;
}

// Below this many products a second launch, which packs, costs more than tensor cores save. Guess.
constexpr double kPackProducts = 64.0 * 64 * 64;

// A tensor map has fewer batch dimensions than a Gemm, and a batch-invariant product of 16-bit floats may not take
// another kernel for it: its outermost dimension has to be walked (outer_item).
inline bool walks_outer_batch(const Gemm& g, const Machine& machine) {
  return g.batch_invariant && machine.capability == 90 && element_size(g.in) == 2 && is_floating(g.in) &&
         g.batch_dims > kWgmmaBatchDims;
}

inline bool takes_tensor_cores(const Gemm& g, const Machine& machine) {
  if (element_size(g.in) > 2 || g.in == DType::i16 || g.in == DType::boolean) return false;
  if (g.batch_invariant && is_floating(g.in)) return true;
  const GemmPlan plan = plan_tensor(g, GemmKernel::mma, TileSize::small, machine.multiprocessors);
  return plan.workspace_bytes == 0 || double(g.M) * g.N * g.K * g.batch() >= kPackProducts;
}

inline GemmPlan plan_gemm(const Gemm& problem, const Machine& machine) {
  // Kernels of one dtype that sum in the same order: tile and tiny of float32 and float64; for 16-bit floats wgmma or
  // mma, whichever the machine has.
  const bool one_order = problem.batch_invariant && element_size(problem.in) == 2;
  if (takes_tiny(problem, machine) && !one_order) return plan_tiny(problem);
  if (takes_skinny(problem) && !problem.batch_invariant) return plan_skinny(problem, machine);
  if (takes_tensor_cores(problem, machine)) return plan_tensor_cores(problem, machine);
  return plan_tile(problem, machine);
}

// The plan in one line of key=value.
inline std::string describe(const GemmPlan& p) {
  constexpr const char* kKernels[] = {"tile", "skinny", "tiny", "mma", "wgmma"};
  std::string text = std::string("kernel=") + kKernels[static_cast<int>(p.kernel)];
  const auto add = [&text](const char* key, int64_t value) {
    text += std::string(" ") + key + "=" + std::to_string(value);
  };
  add("large", p.size == TileSize::large);
  add("transpose", p.transpose);
  add("a_along_k", p.a_along_k);
  add("b_along_k", p.b_along_k);
  add("a_packed", p.a_packed);
  add("b_packed", p.b_packed);
  add("tiles_m", p.tiles_m);
  add("tiles_n", p.tiles_n);
  add("tiles", p.tiles);
  add("blocks", p.blocks);
  add("lanes_k", p.lanes_k);
  add("warps_k", p.warps_k);
  add("splits", p.splits);
  add("split_k", p.split_k);
  add("a_pack_bytes", p.a_pack_bytes);
  add("b_pack_bytes", p.b_pack_bytes);
  add("workspace_bytes", p.workspace_bytes);
  return text;
}

struct TileIndex {
  int64_t item, m, n;  // batch item, tile row, tile column
};

// Walks kRasterRows tile rows column by column, then the next rows, then the next item.
MYOPS_HOST_DEVICE inline TileIndex tile_at(int64_t index, int64_t tiles_m, int64_t tiles_n) {
  TileIndex tile;
  tile.item = index / (tiles_m * tiles_n);
  const int64_t in_item = index - tile.item * tiles_m * tiles_n;
  const int64_t first_row = in_item / (kRasterRows * tiles_n) * kRasterRows;
  const int64_t rows = tiles_m - first_row < kRasterRows ? tiles_m - first_row : kRasterRows;
  const int64_t in_group = in_item - first_row * tiles_n;
  tile.n = in_group / rows;
  tile.m = first_row + in_group - tile.n * rows;
  return tile;
}

}  // namespace myops
