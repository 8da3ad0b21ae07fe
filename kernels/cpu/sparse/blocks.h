// D = alpha * A @ B + beta * C for A of dense blocks in rows of blocks (BSR): rows of a block share what is loaded of
// B.
//
// Bound: for H rows and V vectors of D in registers, each column of a block is V loads of B and H of A for H * V FMAs,
// which are therefore all there is from H = V = 2 on. B comes out of its cache in runs of as many rows as a block has
// columns.
#pragma once
#include "spmm.h"

namespace myops::cpu {

// Columns of A in a run, whose sum is added to those of the others: a third of the error of one long chain.
constexpr int64_t kRun = 64;

// Where the blocks of a piece find their rows of B, and their own elements.
struct BlockRows : FarRows {
  const int64_t* blocks;
};

// Rows [row, row + H) of a row of blocks from real column j on, entries as the piece counts them. slot: where the sums
// go instead of D.
template <int H, int NV, class Isa, class T, class S, bool Cx>
[[gnu::noinline]] void sum_blocks(const SpmmOut<Isa, T, S, Cx>& to, const BlockSpmm& p,
                                  const SpmmTile<T, S, BlockRows>& tile, int64_t begin, int64_t end, int64_t block_row,
                                  int64_t row, int64_t j, T* slot) {
  constexpr int L = Isa::template lanes<T>;
  constexpr int Parts = Cx ? 2 : 1;
  using Vec = typename Isa::template Vec<T>;
  const int64_t a_row = p.row_step * Parts, a_col = p.col_step * Parts, b_row = p.spmm.b_row * Parts;
  const S* const values = static_cast<const S*>(p.spmm.values) + row * a_row;
  const int64_t run = max64(kRun / p.width, 1);
  Vec total[H][Parts][NV] = {};
  for (int64_t e = begin; e < end;) {
    const int64_t stop = min64(end, e + run);
    Vec sums[H][Parts][NV] = {};
    for (; e < stop; ++e) {
      const S* x = tile.b + tile.row_of(e);
      const S* a = values + tile.row_of.blocks[e];
      for (int64_t c = 0; c < p.width; ++c, x += b_row, a += a_col) {
        Vec xs[NV];
#pragma GCC unroll 4
        for (int u = 0; u < NV; ++u)
          xs[u] = u + 1 < NV ? load_converted<Isa, T, S>(x + u * L, L)
                             : load_ragged<Isa, T, S>(x + u * L, tile.last, tile.b_end);
#pragma GCC unroll 8
        for (int h = 0; h < H; ++h)
#pragma GCC unroll 2
          for (int part = 0; part < Parts; ++part) {
            const T value = load_scalar<T>(a[h * a_row + part]);
#pragma GCC unroll 4
            for (int u = 0; u < NV; ++u) sums[h][part][u] += xs[u] * value;
          }
      }
    }
#pragma GCC unroll 8
    for (int h = 0; h < H; ++h)
#pragma GCC unroll 2
      for (int part = 0; part < Parts; ++part)
#pragma GCC unroll 4
        for (int u = 0; u < NV; ++u) total[h][part][u] += sums[h][part][u];
  }
  const SpmmOut<Isa, T, S, Cx> out = to;  // a copy, which stores to D cannot change
#pragma GCC unroll 8
  for (int h = 0; h < H; ++h) {
    join_parts<Isa, T>(total[h]);
    if (slot == nullptr) {
      out.finish(block_row * p.height + row + h, j, total[h][0], tile.last);
      continue;
    }
    T* const at = slot + (row + h) * out.d_row + j;
    for (int u = 0; u < NV; ++u) store_converted<Isa, T, T>(at + u * L, total[h][0][u], u + 1 < NV ? L : tile.last);
  }
}

// All rows of a piece, as many at once as there are registers for.
template <int NV, class Isa, class T, class S, bool Cx>
void block_tile(const SpmmOut<Isa, T, S, Cx>& out, const BlockSpmm& p, const Piece& piece,
                const SpmmTile<T, S, BlockRows>& tile, int64_t j, T* slots) {
  constexpr int kSums = (Isa::kBytes == 64 ? 16 : 8) / (Cx ? 2 : 1) / NV;
  constexpr int kMost = kSums < 8 ? kSums : 8, kHalf = kMost < 4 ? kMost : 4;
  T* const slot = piece.slot < 0 ? nullptr : slots + piece.slot * p.height * out.d_row;
  for (int64_t i = piece.row; i < piece.row_end; ++i) {
    const int64_t begin = slot != nullptr ? 0 : row_start(p.spmm.A, i) - piece.begin;
    const int64_t end = slot != nullptr ? piece.end - piece.begin : row_start(p.spmm.A, i + 1) - piece.begin;
    for (int64_t row = 0; row < p.height;) {
      const auto rows = [&](auto count) {
        sum_blocks<count.value, NV>(out, p, tile, begin, end, i, row, j, slot);
        row += count;
      };
      const int64_t left = p.height - row;
      if (left >= kMost)
        rows(std::integral_constant<int, kMost>{});
      else if (left >= kHalf)
        rows(std::integral_constant<int, kHalf>{});
      else if (left >= 2)
        rows(std::integral_constant<int, 2>{});
      else
        rows(std::integral_constant<int, 1>{});
    }
  }
}

template <class Isa, class T, class S, bool Cx>
Status block_spmm_typed(const BlockSpmm& p, const Partition& cut, const Runtime& rt) {
  constexpr int U = Cx ? 2 : 1, kWidest = Isa::kBytes == 64 ? 4 / U : 2;
  Spmm whole = p.spmm;  // whose columns are those of the blocks
  whole.A.cols *= p.width;
  const SpmmOut<Isa, T, S, Cx> out(whole);
  T* const slots = make_slots<T>(cut, p.height * out.d_row, rt);
  const Status status = for_pieces(p.spmm.A, cut, rt, [&](const Piece& piece) {
    alignas(64) int64_t offsets[kPiece + kPrefetch], blocks[kPiece];
    if (!stage_offsets(p.spmm.A, piece.begin, piece.end, p.width * p.spmm.b_row * U, offsets)) return false;
    for (int64_t e = piece.begin; e < piece.end; ++e)
      blocks[e - piece.begin] =
          (p.spmm.perm == nullptr ? e : index_at(p.spmm.perm, p.spmm.A.wide, e)) * p.block_step * U;
    for_tiles<kWidest>(
        out, BlockRows{{offsets}, blocks}, static_cast<const T*>(nullptr),
        [&](const auto& tile, auto count, int64_t j) { block_tile<count.value>(out, p, piece, tile, j, slots); });
    return true;
  });
  add_slots(out, cut, slots, p.height);
  return status;
}

template <class Isa>
Status block_spmm(const BlockSpmm& p, const Partition& cut, const Runtime& rt) {
  return with_sum_types(p.spmm.type, [&](auto types) {
    using Of = decltype(types);
    return block_spmm_typed<Isa, typename Of::Lane, typename Of::StoredLane, Of::kComplex>(p, cut, rt);
  });
}

}  // namespace myops::cpu
