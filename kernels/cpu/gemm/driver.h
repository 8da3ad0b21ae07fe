// The drivers: loops of blocks, packing and micro-kernel calls over the parts of a plan. See plan.h for the vocabulary.
//
// Each part of a batch item (a range of tiles x a range of panels) is computed by one thread from start to end:
//
//   for a block of k:   for a block of panels: [pack B]   for a block of tiles: [pack A]   for panel: for tile:
//   micro-kernel
//
// The sums of finished chains wait in D where the micro-kernel writes D itself, else in a matrix of the compute type
// beside it, so that a 16-bit result is rounded once. A chain of several blocks waits in another one.
#pragma once
#include <atomic>

#include "../../matrix_view.h"
#include "epilogue.h"
#include "microkernel.h"
#include "pack.h"
#include "plan.h"

namespace myops::cpu {

template <class T>
using FinishFn = void (*)(const EpilogueArgs<T>&, const void* c, void* preactivation, void* d);

template <class Isa, class T, class CS, class DS, Activation kF>
void finish_real_any(const EpilogueArgs<T>& e, const void* c, void* preactivation, void* d) {
  finish_real<Isa, T, CS, DS, kF>(e, static_cast<const CS*>(c), static_cast<DS*>(preactivation), static_cast<DS*>(d));
}
template <class Isa, class T>
void finish_complex_any(const EpilogueArgs<T>& e, const void* c, void*, void* d) {
  finish_complex<Isa, T>(e, static_cast<const T*>(c), static_cast<T*>(d));
}

template <class Isa, class T, class CS, class DS>
FinishFn<T> finish_with(Activation f) {
  if (f == Activation::relu) return &finish_real_any<Isa, T, CS, DS, Activation::relu>;
  if constexpr (std::is_floating_point_v<T>) switch (f) {
      case Activation::gelu: return &finish_real_any<Isa, T, CS, DS, Activation::gelu>;
      case Activation::gelu_tanh: return &finish_real_any<Isa, T, CS, DS, Activation::gelu_tanh>;
      case Activation::silu: return &finish_real_any<Isa, T, CS, DS, Activation::silu>;
      default: break;
    }
  return &finish_real_any<Isa, T, CS, DS, Activation::none>;
}

// S is the dtype of A and B, W the wide dtype that C and D may have instead.
template <class Isa, class T, class S, class W>
FinishFn<T> choose_finish(const Gemm& g) {
  if constexpr (std::is_same_v<S, T> && std::is_floating_point_v<S>)
    if (is_complex(g.in)) return &finish_complex_any<Isa, T>;
  const bool wide_c = g.c_type != g.in, wide_d = g.out != g.in;
  const Activation f = g.activation;
  return wide_d ? (wide_c ? finish_with<Isa, T, W, W>(f) : finish_with<Isa, T, S, W>(f))
                : (wide_c ? finish_with<Isa, T, W, S>(f) : finish_with<Isa, T, S, S>(f));
}

static inline int64_t align64(int64_t bytes) { return (bytes + 63) / 64 * 64; }

// An element of an operand, counted from its base.
template <class E>
static inline E* at(void* base, int64_t elements) {
  return static_cast<E*>(base) + elements;
}

// Splits the work into tasks and gives each running thread its scratch memory: small from its stack, else from torch.
template <class Body>
void run_tasks(const Runtime& rt, bool parallel, int64_t tasks, int64_t scratch_bytes, const Body& body) {
  constexpr int64_t kStackScratch = 32 * 1024;
  char* shared = nullptr;
  if (scratch_bytes > kStackScratch)
    shared = static_cast<char*>(rt.allocate(rt.cookie, scratch_bytes * (parallel ? min64(rt.threads, tasks) : 1)));
  std::atomic<int> next{0};
  for_ranges(rt, parallel, tasks, [&](int64_t begin, int64_t end) {
    if (shared != nullptr) return body(begin, end, shared + scratch_bytes * next.fetch_add(1));
    alignas(64) char small[kStackScratch];
    body(begin, end, small);
  });
}

// C: the micro-kernel's policy. S: what A and B are stored as (the real type of a complex dtype).
template <class Isa, class C, class S>
struct Tiled {
  using T = typename C::Scalar;
  using AE = typename C::A;
  using BE = typename C::B;
  using Out = typename C::Out;
  static constexpr bool kGroups = C::kGroup > 1;                // A and B step through k by groups
  static constexpr bool kDirectOnly = !std::is_same_v<Out, T>;  // D is 16-bit: one block of k, written directly
  static constexpr int L = C::kLanes;

  const Gemm& g;
  const Plan& p;
  const int unit;                       // real rows (columns) of a row (column) of D
  const int64_t tall_rows, tall_tiles;  // rows of D in each of the tall tiles, which come first
  const int64_t tiles, vectors, panels;
  const Split rows_of_tiles, vectors_of_panels;
  const FinishFn<T> finish;
  const T alpha, beta;
  const typename C::Signs signs;
  const int64_t kc_steps;                         // steps of a full block of k
  int64_t a_width = 0;                            // elements of packed A per row
  int64_t b_bytes = 0, a_bytes = 0, s_bytes = 0;  // s: each of the matrices that sums wait in
  int64_t shift_bytes = 0;                        // of what the sums of the rows of a block start from
  int64_t s_cols = 0;

  static TileFn<C> kernel(int64_t rows, int64_t vectors) {
    if constexpr (C::kMatrixUnit) {
      return C::kernel(rows, vectors);
    } else {
      static constexpr TileTable<Isa, C, C::kRows, C::kVectors> table;
      return rows > C::kRows ? table.tall : rows == 1 ? table.wide[vectors - 1] : table.at[rows - 1][vectors - 1];
    }
  }

  Tiled(const Gemm& problem, const Plan& plan, FinishFn<T> f)
      : g(problem),
        p(plan),
        unit(plan.complex ? 2 : 1),
        tall_rows(plan.tall / unit),
        tall_tiles(plan.tall > 0 ? problem.M / tall_rows : 0),
        tiles(tall_tiles + ceil_div(problem.M - tall_tiles * tall_rows, C::kRows / unit)),
        vectors(ceil_div(plan.cols, L)),
        panels(ceil_div(vectors, plan.nv)),
        rows_of_tiles(problem.M - tall_tiles * tall_rows, max64(1, tiles - tall_tiles)),
        vectors_of_panels(vectors, panels),
        finish(f),
        alpha(scalar<T>(problem.alpha)),
        beta(scalar<T>(problem.beta)),
        signs(problem.A.conj, problem.B.conj, problem.C.conj, beta),
        kc_steps(steps_of(plan.kc)) {}

  // Steps that k elements take, whole ones of what the kernel works on at a time.
  static int64_t steps_of(int64_t k) { return ceil_div(k, C::kGroup * C::kDepth) * C::kDepth; }
  int64_t tile_row(int64_t tile) const {  // in rows of D
    return tile <= tall_tiles ? tile * tall_rows : tall_tiles * tall_rows + rows_of_tiles.begin(tile - tall_tiles);
  }
  int64_t panel_vector(int64_t panel) const { return vectors_of_panels.begin(panel); }
  int64_t panel_column(int64_t panel) const { return min64(panel_vector(panel) * L, p.cols); }  // real columns

  void run(const Runtime& rt) {
    const int64_t mc_tiles = max64(1, p.mc / p.mr), nc_panels = max64(1, p.nc / (static_cast<int64_t>(p.nv) * L));
    if (p.pack_b)
      b_bytes = align64(min64(nc_panels, ceil_div(panels, p.tasks_n)) * C::kVectors * L * kc_steps * sizeof(BE));
    if (p.pack_a) {
      // A cache line beyond a power of two keeps the rows of a tile out of each other's cache sets.
      const int64_t line = 64 / static_cast<int64_t>(sizeof(AE));
      a_width = C::kGroup == 1 && unit == 1 && g.K <= kShortRow ? g.K : C::kGroup * kc_steps + line;
      const int64_t packed_tiles = p.keep_a ? ceil_div(tiles, p.tasks_m) : min64(mc_tiles, tiles);
      a_bytes = align64((packed_tiles * max64(C::kRows, p.tall) * a_width + line) * sizeof(AE));
    }
    const bool totals_wait = !p.direct_d && p.chain < g.K, chain_waits = p.kc < p.chain;
    if (totals_wait || chain_waits) {
      s_cols = ceil_div(panels, p.tasks_n) * p.nv * L;
      s_bytes = align64(ceil_div(tiles, p.tasks_m) * p.mr * s_cols * sizeof(T));
    }
    if constexpr (C::kShift) shift_bytes = align64(min64(mc_tiles, tiles) * max64(C::kRows, p.tall) * sizeof(T));
    const int64_t parts = p.tasks_m * p.tasks_n;
    const Split parts_m(tiles, p.tasks_m), parts_n(panels, p.tasks_n);  // divisions, not to be repeated for every item
    const int64_t scratch_bytes = b_bytes + a_bytes + shift_bytes + (totals_wait + chain_waits) * s_bytes;
    run_tasks(rt, p.parallel, g.batch() * parts, scratch_bytes, [&](int64_t begin, int64_t end, char* scratch) {
      [[maybe_unused]] const typename C::Session session;
      if constexpr (!C::kMatrixUnit)
        if (parts == 1 && panels == 1 && tiles <= mc_tiles && p.direct_d && p.kc >= g.K && !g.b_panels)
          return run_items(begin, end, scratch);
      if (parts == 1 && !p.panels_first) {
        for (int64_t item = begin; item < end; ++item)
          run_part(item, 0, tiles, 0, panels, mc_tiles, nc_panels, scratch);
        return;
      }
      for (int64_t task = begin; task < end; ++task) {
        const int64_t part = task % parts, pm = part / p.tasks_n, pn = part % p.tasks_n;
        const int64_t last = parts_n.begin(pn + 1);
        for (int64_t first = parts_n.begin(pn), end = first; first < last; first = end) {
          end = p.panels_first ? min64(first + nc_panels, last) : last;
          run_part(task / parts, parts_m.begin(pm), parts_m.begin(pm + 1), first, end, mc_tiles, nc_panels, scratch);
        }
      }
    });
  }

  // Matrices of a few elements times a column each, as rotations are: a vector of one useful lane is no faster.
  void run_columns(int64_t begin, int64_t end) const {
    // C++ would multiply 16 bits as a signed int.
    using T = std::conditional_t<sizeof(Tiled::T) == 2, uint32_t, Tiled::T>;
    const Gemm q = g;  // a copy, which stores to D cannot change
    const T scale = alpha, scale_c = beta;
    for (int64_t item = begin; item < end; ++item) {
      const S* const a = at<S>(q.A.data, batch_offset(q, q.A, item));
      const S* const b = at<S>(q.B.data, batch_offset(q, q.B, item));
      const S* const c = q.C.data == nullptr ? nullptr : at<S>(q.C.data, batch_offset(q, q.C, item));
      S* const d = at<S>(q.D.data, batch_offset(q, q.D, item));
      for (int64_t i = 0; i < q.M; ++i) {
        T sum{};
        for (int64_t k = 0; k < q.K; ++k) {
          sum += load_scalar<T>(a[i * q.A.row_stride + k * q.A.col_stride]) * load_scalar<T>(b[k * q.B.row_stride]);
          if constexpr (std::is_floating_point_v<T>) sum = rounded(sum);  // the bits of a tile: no products by vectors
        }
        sum = rounded(sum * scale);
        if (c != nullptr) sum += rounded(load_scalar<T>(c[i * q.C.row_stride]) * scale_c);
        d[i * q.D.row_stride] = store_scalar<S>(sum);
      }
    }
  }

  // Items of a single panel and a single block: what run_part does, without its loops, which are most of the time of
  // an item of a few elements.
  void run_items(int64_t begin, int64_t end, char* scratch) const {
    BE* const b_packed = reinterpret_cast<BE*>(scratch);
    AE* const a_packed = reinterpret_cast<AE*>(scratch + b_bytes);
    T* const shifts = reinterpret_cast<T*>(scratch + b_bytes + a_bytes);
    if constexpr (std::is_same_v<S, Out>)
      if (p.cols == 1 && !g.batch_invariant && g.activation == Activation::none) return run_columns(begin, end);
    Tile<C> t = any_tile();
    t.k = steps_of(g.K);
    t.b_k = p.pack_b ? vectors * L : C::kGroup * g.B.row_stride * unit;
    t.last = static_cast<int>(p.cols - (vectors - 1) * L);
    t.read = p.pack_b ? L : t.last;
    for (int64_t item = begin; item < end; ++item) {
      const S* const a = at<S>(g.A.data, batch_offset(g, g.A, item) * unit);
      const S* const b = at<S>(g.B.data, batch_offset(g, g.B, item) * unit);
      if (p.pack_b) pack_panels(b, 0, g.K, 0, 1, b_packed);
      if (p.pack_a) pack_a(a, 0, g.K, 0, tiles, a_packed);
      if constexpr (C::kShift) find_shifts(a, 0, g.K, 0, tiles, a_packed, shifts);
      t.b = p.pack_b ? b_packed : reinterpret_cast<const BE*>(b);
      Position q{0, 0, 0, p.cols, g.C.data == nullptr ? 0 : batch_offset(g, g.C, item), batch_offset(g, g.D, item)};
      for (int64_t i = 0; i < tiles; ++i) {
        q.row = tile_row(i), q.rows = tile_row(i + 1) - q.row;
        t.a = rows_of_a(a, q.row, 0, a_packed, 0);
        t.rows = static_cast<int>(q.rows * unit);
        if constexpr (C::kShift) t.shift = shifts + q.row;
        write_direct(t, kernel(t.rows, vectors), q);
      }
    }
  }

  void run_part(int64_t item, int64_t tile0, int64_t tile1, int64_t panel0, int64_t panel1, int64_t mc_tiles,
                int64_t nc_panels, char* scratch) {
    const S* a = at<S>(g.A.data, batch_offset(g, g.A, item) * unit);
    const S* b = at<S>(g.B.data, batch_offset(g, g.B, item) * unit);
    const int64_t c_offset = g.C.data == nullptr ? 0 : batch_offset(g, g.C, item);
    const int64_t d_offset = batch_offset(g, g.D, item);
    BE* const b_packed = reinterpret_cast<BE*>(scratch);
    AE* const a_packed = reinterpret_cast<AE*>(scratch + b_bytes);
    T* const shifts = reinterpret_cast<T*>(scratch + b_bytes + a_bytes);
    T* const running = shifts + shift_bytes / sizeof(T);
    T* const totals = p.kc < p.chain ? running + s_bytes / sizeof(T) : running;
    const int64_t first_row = tile_row(tile0), s_col0 = panel_column(panel0);
    alignas(64) T sums[C::kRows * C::kVectors * L];  // a tall tile is no larger
    alignas(64) T slices[C::kMatrixUnit ? kUnitTiles : 1][C::kRows * C::kVectors * L];

    const bool whole = p.direct_d && p.kc >= g.K;  // one block, and nothing waits
    Tile<C> t = any_tile();
    t.d_ahead = p.d_far ? kTilesAhead * p.nv * L : 0;
    const BE* panels_k = reinterpret_cast<const BE*>(g.B.data);
    int64_t k0 = 0, in_chain = 0;
    do {
      const int64_t kb = min64(min64(p.kc, p.chain - in_chain), g.K - k0), steps = steps_of(kb);
      const bool last = k0 + kb >= g.K;
      const Block block{in_chain == 0, last || in_chain + kb == p.chain, k0 == in_chain, last};
      for (int64_t jc = panel0; jc < panel1; jc += nc_panels) {
        const int64_t jc_end = min64(jc + nc_panels, panel1);
        if (p.pack_b) pack_panels(b, k0, kb, jc, jc_end, b_packed);
        const bool panels_in_place = g.b_panels && !p.pack_b;
        const int64_t base_vector = panels_in_place ? 0 : panel_vector(jc);
        const BE* const packed = panels_in_place ? panels_k : b_packed;
        for (int64_t ic = tile0; ic < tile1; ic += mc_tiles) {
          const int64_t ic_end = min64(ic + mc_tiles, tile1);
          AE* const a_block = a_packed + (p.keep_a ? (tile_row(ic) - tile_row(tile0)) * unit * a_width : 0);
          if (p.pack_a && (!p.keep_a || jc == panel0)) pack_a(a, k0, kb, ic, ic_end, a_block);
          if constexpr (C::kShift) find_shifts(a, k0, kb, ic, ic_end, a_block, shifts);
          for (int64_t j = jc; j < jc_end; ++j) {
            const int64_t v0 = panel_vector(j), nv = panel_vector(j + 1) - v0, col = v0 * L;
            const int64_t cols = min64(nv * L, p.cols - col);
            t.k = steps;
            const bool in_place = !p.pack_b && !g.b_panels;
            t.last = static_cast<int>(cols - (nv - 1) * L);
            t.read = in_place ? t.last : L;
            t.b = in_place ? reinterpret_cast<const BE*>(b + k0 * g.B.row_stride * unit + col)
                           : packed + (v0 - base_vector) * L * steps;
            t.b_k = in_place ? C::kGroup * g.B.row_stride * unit : nv * L;
            const int64_t ahead = b_ahead(j, jc, jc_end, kb);
            // A slice of the panel stays in L1 while the tiles pass by it, and so do their sums. A single panel reads A
            // once, from memory, in runs as long as possible.
            const bool sliced = C::kMatrixUnit && block.opens && ic_end - ic > 1 && jc_end - jc > 1;
            const int64_t slice = sliced ? min64(kUnitSlice, steps) : steps;
            int64_t done = 0;
            do {
              t.k = min64(slice, steps - done);
              const int64_t row0 = tile_row(ic);
              for (int64_t i = ic, row = row0, next; i < ic_end; ++i, row = next) {
                next = tile_row(i + 1);
                const int64_t rows = next - row;
                const auto kernel = Tiled::kernel(rows * unit, nv);
                t.a = rows_of_a(a, row, k0 + done * C::kGroup, a_block + done * C::kGroup, row0);
                t.rows = static_cast<int>(rows * unit);
                t.b_ahead = i == ic ? ahead : 0;
                if constexpr (C::kShift) t.shift = shifts + (row - row0);
                if constexpr (C::kMatrixUnit) {
                  T* const waiting = slices[i - ic];
                  t.start = done > 0 ? waiting : nullptr, t.start_row = C::kVectors * L;
                  t.sums = done + slice < steps ? waiting : nullptr;
                  if (t.sums != nullptr) {
                    kernel(t);
                    continue;
                  }
                }
                const Position at{row, rows, col, cols, c_offset, d_offset};
                if constexpr (!kDirectOnly) {
                  if (!whole) {
                    const int64_t s_row = (row - first_row) * s_cols, s_col = col - s_col0;
                    compute_tile(t, kernel, at, block, running + s_row * unit + s_col, totals + s_row + s_col, sums,
                                 nv * L);
                    continue;
                  }
                }
                write_direct(t, kernel, at);
              }
              t.b += t.k * t.b_k;
              done += slice;
            } while (done < steps);
          }
        }
      }
      k0 += kb;
      in_chain = block.closes ? 0 : in_chain + kb;
      if (g.b_panels) panels_k += vectors * L * steps;
    } while (k0 < g.K);
  }

  // How far ahead of its use the first tile of a panel asks for B, in elements. In place: the next panel, after the
  // last one the first of the next block. A packed weight: beyond the page that the hardware asks for by itself.
  int64_t b_ahead(int64_t panel, int64_t jc, int64_t jc_end, int64_t kb) const {
    if (p.pack_b || !p.b_far) return 0;
    if (g.b_panels) return kBytesAhead / static_cast<int64_t>(sizeof(BE));
    const int64_t next_block = panel_column(jc) + kb * g.B.row_stride * unit;
    return (panel + 1 < jc_end ? panel_column(panel + 1) : next_block) - panel_column(panel);
  }

  // Where a tile lies: rows of D, real columns.
  struct Position {
    int64_t row, rows, col, cols, c_offset, d_offset;
  };

  // Whether a block of k opens and closes its chain, whether that is the first one, and whether nothing comes after it.
  struct Block {
    bool opens, closes, first_chain, last;
  };

  // What is the same for every tile.
  Tile<C> any_tile() const {
    Tile<C> t{};
    t.a_row = unit * (p.pack_a ? a_width : g.A.row_stride);
    t.a_k = kGroups ? C::kGroup : unit * (p.pack_a ? 1 : g.A.col_stride);
    t.c_row = unit * g.C.row_stride, t.c_col = g.C.col_stride != 0, t.d_row = unit * g.D.row_stride;
    t.alpha = alpha, t.beta = beta;
    if constexpr (C::kComplexRows) t.signs = &signs;
    return t;
  }

  void write_direct(Tile<C>& t, TileFn<C> kernel, const Position& q) const {
    t.d = at<Out>(g.D.data, (q.d_offset + q.row * g.D.row_stride) * unit + q.col);
    t.c = g.C.data == nullptr ? nullptr
                              : at<Out>(g.C.data, (q.c_offset + q.row * g.C.row_stride) * unit + q.col * t.c_col);
    kernel(t);
    if constexpr (!kDirectOnly)
      if (g.activation != Activation::none) {  // in place, while the tile is in L1
        const int rows = static_cast<int>(q.rows), cols = static_cast<int>(q.cols);
        finish({t.d, t.d_row, rows, cols, false, T(1), T(0), 0, 0, t.d_row, 1}, nullptr, preactivation(g, t.d), t.d);
      }
  }

  // The sums of a block, from where its chain stands to where they wait for the next block, the next chain or the end.
  // Complex ones are combined when their chain is complete.
  void compute_tile(Tile<C>& t, TileFn<C> kernel, const Position& q, const Block& block, T* running, T* totals, T* sums,
                    int64_t sums_row) const {
    t.c = nullptr, t.before = nullptr;
    t.alpha = T(1);
    if constexpr (C::kComplexRows) t.signs = block.closes ? &signs : nullptr;
    if (!block.opens)
      t.start = running, t.start_row = s_cols;
    else if (!C::kMatrixUnit)  // else the sums of a slice
      t.start = nullptr;
    if (!block.closes) {
      t.d = running, t.d_row = s_cols;
      return kernel(t);
    }
    if (p.direct_d)
      t.d = at<T>(g.D.data, (q.d_offset + q.row * g.D.row_stride) * unit + q.col), t.d_row = g.D.row_stride * unit;
    else
      t.d = totals, t.d_row = s_cols;
    if (!block.first_chain) t.before = t.d, t.before_row = t.d_row;
    if (!block.last) return kernel(t);
    if (p.direct_d) {
      t.alpha = alpha;
      return write_direct(t, kernel, q);
    }
    t.d = sums, t.d_row = sums_row;
    kernel(t);
    finish_tile(q, sums, sums_row);
  }

  void finish_tile(const Position& q, const T* sums, int64_t sums_row) const {
    const EpilogueArgs<T> e{sums,
                            sums_row,
                            static_cast<int>(q.rows),
                            static_cast<int>(q.cols / unit),
                            g.C.conj,
                            alpha,
                            beta,
                            g.C.row_stride,
                            g.C.col_stride,
                            g.D.row_stride,
                            g.D.col_stride};
    char* const d = element(g.D, g.out, q.d_offset, q.row, q.col / unit);
    finish(e, element(g.C, g.c_type, q.c_offset, q.row, q.col / unit), preactivation(g, d), d);
  }

  static char* element(const MatrixView& v, DType type, int64_t offset, int64_t row, int64_t col) {
    if (v.data == nullptr) return nullptr;
    return static_cast<char*>(v.data) + (offset + row * v.row_stride + col * v.col_stride) * element_size(type);
  }

  // The place of an element of D in the matrix beside it; nullptr where that is not asked for.
  static char* preactivation(const Gemm& g, void* d) {
    if (g.preactivation == nullptr) return nullptr;
    return static_cast<char*>(g.preactivation) + (static_cast<char*>(d) - static_cast<char*>(g.D.data));
  }

  // Panels of a packed weight of 16-bit floats, widened for many rows once and not by each of their loads.
  void widen_panels(int64_t k0, int64_t kb, int64_t jc, int64_t jc_end, T* widened) const {
    const S* from = static_cast<const S*>(g.B.data) + (k0 * vectors + panel_vector(jc) * kb) * L;
    const int64_t count = (panel_vector(jc_end) - panel_vector(jc)) * L * kb;
    for (int64_t i = 0; i < count; i += L) Isa::template store<T>(widened + i, load_converted<Isa, T, S>(from + i, L));
  }

  // All of B as the panels of a packed weight (panels.h).
  void pack_weight(void* packed) const {
    const S* b = at<S>(g.B.data, 0);
    BE* panels_k = static_cast<BE*>(packed);
    int64_t k0 = 0;
    do {
      const int64_t kb = min64(p.kc, g.K - k0);
      pack_panels(b, k0, kb, 0, panels, panels_k);
      panels_k += vectors * L * steps_of(kb);
      k0 += kb;
    } while (k0 < g.K);
  }

  static constexpr int64_t kRowsTogether = 16;
  static constexpr int64_t kBytesAhead = 4096;
  static constexpr int64_t kTilesAhead = 4;

  // Rows [k0, k0 + kb) of the panels [jc, jc_end), one panel after the other. Rows of B that lie far apart are read a
  // few at a time across all panels: the prefetcher follows few streams.
  void pack_panels(const S* b, int64_t k0, int64_t kb, int64_t jc, int64_t jc_end, BE* packed) const {
    if constexpr (std::is_same_v<BE, T> && !std::is_same_v<S, T> && C::kGroup == 1)
      if (g.b_panels && p.pack_b) return widen_panels(k0, kb, jc, jc_end, packed);
    const int64_t steps = steps_of(kb), rows = g.B.col_stride != 1 ? max64(1, kb) : kRowsTogether;
    for (int64_t k = 0; k < kb; k += rows)
      for (int64_t j = jc; j < jc_end; ++j)
        pack_b(b, k0 + k, min64(rows, kb - k), j, panel_vector(jc), steps, k / C::kGroup, packed);
    if constexpr (C::kDepth > 1)
      for (int64_t j = jc; j < jc_end; ++j) {
        const int64_t v0 = panel_vector(j), width = (panel_vector(j + 1) - v0) * L, used = ceil_div(kb, C::kGroup);
        std::memset(packed + (v0 - panel_vector(jc)) * L * steps + used * width, 0,
                    (steps - used) * width * sizeof(BE));
      }
  }

  // Rows [k0, k0 + kb) of one panel, to step `at` of its place in `packed`.
  void pack_b(const S* b, int64_t k0, int64_t kb, int64_t panel, int64_t base_vector, int64_t steps, int64_t at_step,
              BE* packed) const {
    const int64_t v0 = panel_vector(panel), nv = panel_vector(panel + 1) - v0, col = v0 * L / unit;
    const int64_t width = nv * L, n = (min64(v0 * L + width, p.cols) - v0 * L) / unit;
    BE* dst = packed + (v0 - base_vector) * L * steps + at_step * width;
    const S* src = b + (k0 * g.B.row_stride + col * g.B.col_stride) * unit;
    if constexpr (C::kGroup == 4 && !std::is_same_v<BE, S>) {
      pack_b_quads<Isa, C::kShift>(reinterpret_cast<const int8_t*>(src), g.B.row_stride, g.B.col_stride, kb, n, width,
                                   dst);
    } else if constexpr (C::kGroup == 2 && sizeof(S) == 1 && !std::is_same_v<BE, S>) {
      pack_b_byte_pairs<Isa>(reinterpret_cast<const uint8_t*>(src), g.B.row_stride, g.B.col_stride, kb, n, width, dst);
    } else if constexpr (C::kGroup == 2 && !std::is_same_v<BE, S>) {
      pack_b_pairs<Isa>(reinterpret_cast<const uint16_t*>(src), g.B.row_stride, g.B.col_stride, kb, n, width, dst);
    } else if constexpr (std::is_same_v<BE, T>) {
      if (!p.complex) {
        pack_b_panel<Isa, T, S>(src, g.B.row_stride, g.B.col_stride, kb, n, width, dst);
      } else if constexpr (std::is_same_v<T, float>) {  // (re, im) moves as one double
        pack_b_panel<Isa, double, double>(reinterpret_cast<const double*>(src), g.B.row_stride, g.B.col_stride, kb, n,
                                          width / 2, reinterpret_cast<double*>(dst));
      } else if constexpr (std::is_same_v<T, double>) {
        using Element = Complex<double>;
        pack_b_elements<Element>(reinterpret_cast<const Element*>(src), g.B.row_stride, g.B.col_stride, kb, n,
                                 width / 2, reinterpret_cast<Element*>(dst));
      }
    } else if constexpr (std::is_same_v<BE, S>) {  // of a packed weight, widened by the loads
      pack_b_elements<S>(src, g.B.row_stride, g.B.col_stride, kb, n, width, dst);
    }
  }

  void pack_a(const S* a, int64_t k0, int64_t kb, int64_t ic, int64_t ic_end, AE* packed) const {
    const int64_t row0 = tile_row(ic);
    const S* src = a + (row0 * g.A.row_stride + k0 * g.A.col_stride) * unit;
    const int64_t rows = tile_row(ic_end) - row0;
    if constexpr (std::is_same_v<S, AE> && std::is_floating_point_v<S>)
      if (p.complex) return pack_a_complex<Isa>(src, g.A.row_stride, g.A.col_stride, rows, kb, a_width, packed);
    if constexpr (sizeof(T) == 2)
      return;  // every stride is read in place
    else if constexpr (kGroups)
      pack_a_groups<Isa>(src, g.A.row_stride, g.A.col_stride, rows, kb, C::kGroup * C::kDepth, a_width, packed);
    else
      pack_a_rows<Isa, T, S>(src, g.A.row_stride, g.A.col_stride, rows, kb, a_width, packed);
  }

  // Of a block of rows, what their sums start from: of the rows as the tiles will read them.
  void find_shifts(const S* a, int64_t k0, int64_t kb, int64_t ic, int64_t ic_end, const AE* packed, T* shifts) const {
    const int64_t row0 = tile_row(ic), rows = tile_row(ic_end) - row0, a_row = p.pack_a ? a_width : g.A.row_stride;
    const AE* from = p.pack_a ? packed : a + row0 * g.A.row_stride + k0 * g.A.col_stride;
    for (int64_t i = 0; i < rows; ++i) shifts[i] = shift_of_row<Isa, S>(from + i * a_row, kb);
  }

  // A from row `row` and step k on, where it lies or in a block that was packed from `row0` on.
  const AE* rows_of_a(const S* a, int64_t row, int64_t k, const AE* packed, int64_t row0) const {
    if constexpr (std::is_same_v<S, AE>)
      if (!p.pack_a) return a + (row * g.A.row_stride + k * g.A.col_stride) * unit;
    return packed + (row - row0) * unit * a_width;
  }
};

// x @ W.T for few rows: W is read once, in place, along k.
template <class Isa, class T, class S, class Step>
struct Dot {
  static constexpr int kCols = 4, kChunk = 64, kMaxM = 16, kUnit = Step::kComplex ? 2 : 1;
  static constexpr int kRows = Isa::kDotRows / kUnit;
  // Bytes from which a column alone is a stream; shorter ones share their sums over lanes: 768x768 int8 12.1 to 10.2 us
  // on one thread, but of 16 bits (1536 bytes) 32 to 34.
  static constexpr int64_t kLongColumn = 1024;
  using Kernel = void (*)(int64_t, const S*, int64_t, const S*, int64_t, T*, int64_t);

  template <int MR, int NC>
  static constexpr Kernel kernel_of() {
    if constexpr (Step::kComplex)
      return &complex_dot_kernel<Isa, T, MR, NC>;
    else
      return &dot_kernel<Isa, T, S, Step, MR, NC>;
  }
  template <int MR>
  static Kernel kernel_for(int nc) {
    static constexpr Kernel k[kCols] = {kernel_of<MR, 1>(), kernel_of<MR, 2>(), kernel_of<MR, 3>(), kernel_of<MR, 4>()};
    return k[nc - 1];
  }
  static Kernel kernel(int mr, int nc) {
    if constexpr (kRows >= 4) {
      if (mr == 4) return kernel_for<4>(nc);
      if (mr == 3) return kernel_for<3>(nc);
    }
    if constexpr (kRows >= 2)
      if (mr == 2) return kernel_for<2>(nc);
    return kernel_for<1>(nc);
  }

  // Rows of A whose elements are not neighbours, copied so that they are.
  static void pack(const Gemm& g, const S* a, int64_t width, S* to) {
    if constexpr (kUnit == 2) {
      pack_a_complex<Isa>(a, g.A.row_stride, g.A.col_stride, g.M, g.K, width / 2, to);
    } else if constexpr (sizeof(S) < 4) {
      pack_a_groups<Isa>(a, g.A.row_stride, g.A.col_stride, g.M, g.K, 4 / sizeof(S), width, to);
    } else {
      pack_a_rows<Isa, S, S>(a, g.A.row_stride, g.A.col_stride, g.M, g.K, width, to);
    }
  }

  static void run(const Gemm& g, const Plan& p, FinishFn<T> finish, const Runtime& rt) {
    const int64_t chunks = ceil_div(g.N, kChunk), b_col = g.B.col_stride * kUnit;
    const int64_t packed_bytes = p.pack_a ? align64(g.K * kUnit * sizeof(S)) : 0;  // of a row
    const int64_t a_row = p.pack_a ? packed_bytes / static_cast<int64_t>(sizeof(S)) : g.A.row_stride * kUnit;
    const T alpha = scalar<T>(g.alpha), beta = scalar<T>(g.beta);
    run_tasks(rt, p.parallel, g.batch() * chunks, g.M * packed_bytes, [&](int64_t begin, int64_t end, char* scratch) {
      constexpr int kSumsRow = kUnit * kChunk;
      alignas(64) T sums[kUnit * kMaxM * kSumsRow];
      int64_t packed_item = -1;
      for (int64_t task = begin; task < end; ++task) {
        const int64_t item = task / chunks, col = task % chunks * kChunk;
        const int cols = static_cast<int>(min64(kChunk, g.N - col));
        const S* a = at<S>(g.A.data, batch_offset(g, g.A, item) * kUnit);
        if (p.pack_a) {
          S* const packed = reinterpret_cast<S*>(scratch);
          if (item != packed_item) pack(g, a, a_row, packed);
          a = packed, packed_item = item;
        }
        const S* b = at<S>(g.B.data, batch_offset(g, g.B, item) * kUnit + col * b_col);
        const int tiles = static_cast<int>(ceil_div(g.M, kRows));
        const Split rows(g.M, tiles);
        const int together = g.M == 1 && g.K * static_cast<int64_t>(sizeof(S)) >= kLongColumn ? rt.long_columns : kCols;
        for (int j = 0; j < cols; j += together) {
          const int nc = cols - j < together ? cols - j : together;
          for (int i = 0; i < tiles; ++i) {
            const int row = static_cast<int>(rows.begin(i)), mr = static_cast<int>(rows.begin(i + 1)) - row;
            kernel(mr, nc)(g.K * kUnit, a + row * a_row, a_row, b + j * b_col, b_col,
                           sums + kUnit * (row * kSumsRow + j), kSumsRow);
          }
        }
        if constexpr (Step::kShift)
          for (int64_t i = 0; i < g.M; ++i) {
            const T shift = shift_of_row<Isa, S>(a + i * a_row, g.K);
            for (int j = 0; j < cols; ++j) sums[i * kChunk + j] += shift;
          }
        if constexpr (Step::kComplex) {
          const ComplexSigns<Isa, T> signs(g.A.conj, g.B.conj, g.C.conj, beta);
          for (int64_t i = 0; i < g.M; ++i)
            for (int j = 0; j < kUnit * cols; j += Isa::template lanes<T>) {
              const auto part = [&](int64_t row) { return Isa::template load<T>(sums + row * kSumsRow + j); };
              Isa::template store<T>(sums + i * kSumsRow + j, signs.combined(part(2 * i), part(2 * i + 1)));
            }
        }
        EpilogueArgs<T> e{sums, kSumsRow,       static_cast<int>(g.M), cols,           g.C.conj,      alpha,
                          beta, g.C.row_stride, g.C.col_stride,        g.D.row_stride, g.D.col_stride};
        using Any = Tiled<Isa, Real<Isa, T, T>, T>;
        char* const d = Any::element(g.D, g.out, batch_offset(g, g.D, item), 0, col);
        finish(e, Any::element(g.C, g.c_type, g.C.data == nullptr ? 0 : batch_offset(g, g.C, item), 0, col),
               Any::preactivation(g, d), d);
      }
    });
  }
};

// Calls use(Tiled<...>) with the policy that the plan chose.
template <class Isa, class T, class S, class W, class Use>
void with_tiled(const Gemm& g, const Plan& p, const Use& use) {
  const FinishFn<T> finish = choose_finish<Isa, T, S, W>(g);
  const bool in_place = !p.pack_b && !g.b_panels;
  if constexpr (std::is_same_v<S, bf16> && Isa::kBf16Dot)
    if (p.compute == Compute::bf16_dot) {
      const bool narrow_d = p.direct_d && g.out == DType::bf16;
      if (in_place && narrow_d) return use(Tiled<Isa, PairDot<Isa, S, S, true>, S>(g, p, finish));
      if (in_place) return use(Tiled<Isa, PairDot<Isa, S, T, true>, S>(g, p, finish));
      if (narrow_d) return use(Tiled<Isa, PairDot<Isa, S, S>, S>(g, p, finish));
      return use(Tiled<Isa, PairDot<Isa, S, T>, S>(g, p, finish));
    }
  if constexpr (std::is_same_v<S, int16_t> || (sizeof(S) == 1 && !Isa::kInt8Dot))
    if (p.compute == Compute::i16_dot) {
      if (in_place) return use(Tiled<Isa, PairDot<Isa, int16_t, T, true, S>, S>(g, p, finish));
      return use(Tiled<Isa, PairDot<Isa, int16_t, T, false, S>, S>(g, p, finish));
    }
  if constexpr (sizeof(S) == 1 && Isa::kInt8Dot)
    if (p.compute == Compute::byte_dot) {
      if (in_place) return use(Tiled<Isa, ByteDot<Isa, S, true>, S>(g, p, finish));
      return use(Tiled<Isa, ByteDot<Isa, S>, S>(g, p, finish));
    }
  if constexpr (sizeof(S) == 1)
    if (in_place) return use(Tiled<Isa, Real<Isa, T, S>, S>(g, p, finish));
  if constexpr (std::is_same_v<S, bf16> || std::is_same_v<S, f16>) {
    const bool narrow_d = p.direct_d && g.out == g.in;
    if (!p.pack_b && narrow_d) return use(Tiled<Isa, Real<Isa, T, S, S>, S>(g, p, finish));
    if (!p.pack_b) return use(Tiled<Isa, Real<Isa, T, S>, S>(g, p, finish));
    if (narrow_d) return use(Tiled<Isa, Real<Isa, T, T, S>, S>(g, p, finish));
  }
  if constexpr (std::is_same_v<S, float> || std::is_same_v<S, double>)
    if (p.complex) return use(Tiled<Isa, Real<Isa, T, T, T, T, true>, S>(g, p, finish));
  use(Tiled<Isa, Real<Isa, T, T>, S>(g, p, finish));
}

// What a dtype is computed in, stored as, and the wide dtype that C and D may have instead.
template <class T, class S, class W>
struct ProductTypes {
  using Compute = T;
  using Stored = S;
  using Wide = W;
};

// body(ProductTypes<...>{}) of a dtype.
template <class Body>
void with_product_types(DType in, const Body& body) {
  switch (in) {
    case DType::c64:
    case DType::f32: return body(ProductTypes<float, float, float>{});
    case DType::c128:
    case DType::f64: return body(ProductTypes<double, double, double>{});
    case DType::bf16: return body(ProductTypes<float, bf16, float>{});
    case DType::f16: return body(ProductTypes<float, f16, float>{});
    case DType::i8: return body(ProductTypes<uint32_t, int8_t, int32_t>{});
    case DType::u8: return body(ProductTypes<uint32_t, uint8_t, int32_t>{});
    case DType::i16: return body(ProductTypes<uint32_t, int16_t, int16_t>{});
    case DType::i32: return body(ProductTypes<uint32_t, uint32_t, uint32_t>{});
    case DType::i64: return body(ProductTypes<uint64_t, uint64_t, uint64_t>{});
    default: return;  // boolean never gets here: the entry points refuse it
  }
}

// Whether a level is its own base; and whether it has kernels of its own for S, as those with dot products have for
// what these multiply. All others are those of its base.
template <class Isa>
constexpr bool is_base = std::is_same_v<Isa, typename Isa::Base>;
template <class Isa, class S>
constexpr bool has_kernels = is_base<Isa> || std::is_same_v<S, bf16> || (std::is_integral_v<S> && sizeof(S) < 4);

template <class Isa, class T, class S, class W>
void gemm_typed(const Gemm& g, const Plan& p, const Runtime& rt) {
  if (p.driver == Driver::dot) {
    constexpr bool bytes = sizeof(S) == 1 && Isa::kInt8Dot;
    constexpr bool pairs = !bytes && (std::is_same_v<S, bf16> || (std::is_integral_v<S> && sizeof(S) < 4));
    using Step = std::conditional_t<pairs, PairDotStep<Isa, S>,
                                    std::conditional_t<bytes, ByteDotStep<Isa, S>, DotStep<Isa, T, S>>>;
    const FinishFn<T> finish = choose_finish<Isa, T, S, W>(g);
    if constexpr (std::is_floating_point_v<S>)
      if (p.complex) return Dot<Isa, T, S, ComplexDotStep<Isa, T>>::run(g, p, finish, rt);
    return Dot<Isa, T, S, Step>::run(g, p, finish, rt);
  }
  with_tiled<Isa, T, S, W>(g, p, [&](auto tiled) { tiled.run(rt); });
}

// Integers S summed modulo 2^16.
template <class Isa, class S>
void sum_in_16_bits(const Gemm& g, const Plan& p, const Runtime& rt) {
  using T = uint16_t;
  const FinishFn<T> finish = finish_with<Isa, T, S, S>(g.activation);
  if (p.pack_b)
    Tiled<Isa, Real<Isa, T, T, S, S>, S>(g, p, finish).run(rt);
  else
    Tiled<Isa, Real<Isa, T, S, S, S>, S>(g, p, finish).run(rt);
}

template <class Isa>
void gemm(const Gemm& g, const Plan& p, const Runtime& rt) {
  using Base = typename Isa::Base;
  if (p.compute == Compute::u16) {
    if constexpr (is_base<Isa>)  // of bytes only what is written, whatever their sign
      return g.in == DType::i16 ? sum_in_16_bits<Isa, uint16_t>(g, p, rt) : sum_in_16_bits<Isa, uint8_t>(g, p, rt);
    else
      return gemm<Base>(g, p, rt);
  }
  with_product_types(g.in, [&](auto types) {
    using Of = decltype(types);
    if constexpr (has_kernels<Isa, typename Of::Stored>)
      gemm_typed<Isa, typename Of::Compute, typename Of::Stored, typename Of::Wide>(g, p, rt);
    else
      gemm<Base>(g, p, rt);
  });
}

// B of a problem with b_panels, here still a matrix with strides, as those panels.
template <class Isa>
void pack_weight(const Gemm& g, const Plan& p, void* panels) {
  with_product_types(g.in, [&](auto types) {
    using Of = decltype(types);
    if constexpr (has_kernels<Isa, typename Of::Stored>)
      with_tiled<Isa, typename Of::Compute, typename Of::Stored, typename Of::Wide>(
          g, p, [&](auto tiled) { tiled.pack_weight(panels); });
    else
      pack_weight<typename Isa::Base>(g, p, panels);
  });
}

}  // namespace myops::cpu
