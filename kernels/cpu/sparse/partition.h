// How a sparse matrix is cut into pieces of work, and how threads take them.
//
// A piece is a range of rows with about kPiece rows and entries in all (fewer where entries are blocks). A longer row
// is cut into segments of as many entries, each a piece of its own whose sum goes to a slot; the slots of a row are
// added up in their order. The cut depends on the pattern alone, so results do not depend on threads; which thread
// takes which piece is left to chance.
#pragma once
#include <atomic>
#include <limits>
#include <type_traits>

#include "../../sparse_view.h"
#include "../gemm/types.h"

namespace myops::cpu {

// Offsets and values of a piece are staged in L1: 12 bytes an entry, 24 KB.
constexpr int64_t kPiece = 2048;

struct Piece {
  int64_t row, row_end;  // one row for a segment
  int64_t begin, end;    // entries
  int64_t slot;          // of a segment, else -1
};

struct Partition {
  Piece* pieces = nullptr;
  int64_t count = 0, slots = 0;
};

// The pieces lie inside the entries, in order; whether the starts of rows inside a piece rise is left to those who take
// it (for_pieces), of whom there are several. The pieces are rt's scratch.
Status cut(const Csr& A, const Runtime& rt, Partition& out, int64_t size = kPiece);

template <class I>
static inline bool columns_inside(const I* col, int64_t n, int64_t cols) {
  // The signs of columns and of what is left behind them. No comparisons, which AVX2 lacks for 64 unsigned bits.
  using U = std::make_unsigned_t<I>;
  constexpr int64_t kMost = std::numeric_limits<I>::max();
  const U last = static_cast<U>(cols <= kMost ? cols - 1 : kMost);
  U signs = 0;
  for (int64_t e = 0; e < n; ++e) signs |= static_cast<U>(col[e]) | (last - static_cast<U>(col[e]));
  return static_cast<I>(signs) >= 0;
}

// Whether rows [0, n) begin and end in order, given that the first begins and the last ends inside the entries.
template <class I>
static inline bool rows_rise(const I* crow, int64_t n) {
  // The signs of starts and of lengths: for as long as starts are positive lengths cannot wrap. No comparisons.
  using U = std::make_unsigned_t<I>;
  U signs = 0;
  for (int64_t i = 0; i < n; ++i)
    signs |= static_cast<U>(crow[i]) | (static_cast<U>(crow[i + 1]) - static_cast<U>(crow[i]));
  return static_cast<I>(signs) >= 0;
}

// The same for a whole matrix, whose rows cover its entries.
template <class I>
static inline bool rows_cover(const I* crow, int64_t rows, int64_t nnz) {
  return crow[0] == 0 && crow[rows] == nnz && rows_rise(crow, rows);
}

// Calls body(task) for every task; idle threads take the next one.
template <class Body>
void take_turns(const Runtime& rt, int64_t tasks, const Body& body) {
  if (rt.threads <= 1 || tasks <= 1) {
    for (int64_t task = 0; task < tasks; ++task) body(task);
    return;
  }
  std::atomic<int64_t> next{0};
  for_ranges(rt, true, rt.threads < tasks ? rt.threads : tasks, [&](int64_t, int64_t) {
    for (int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) body(task);
  });
}

// A sticky flag that several threads may raise.
struct Flag {
  std::atomic<bool> raised{false};
  void raise() { raised.store(true, std::memory_order_relaxed); }
  bool is_raised() const { return raised.load(std::memory_order_relaxed); }
};

// body(piece) for every piece, by turns; it says whether all of the piece's columns are inside. A bad row is reported
// before a bad column, whichever is found first.
template <class Body>
Status for_pieces(const Csr& A, const Partition& cut, const Runtime& rt, const Body& body) {
  Flag fall, outside;
  take_turns(rt, cut.count, [&](int64_t task) {
    const Piece& piece = cut.pieces[task];
    const int64_t rows = piece.row_end - piece.row;
    const bool rise = piece.slot >= 0 || (A.wide ? rows_rise(static_cast<const int64_t*>(A.crow) + piece.row, rows)
                                                 : rows_rise(static_cast<const int32_t*>(A.crow) + piece.row, rows));
    if (!rise)
      fall.raise();
    else if (!body(piece))
      outside.raise();
  });
  return fall.is_raised() ? Status::bad_crow : outside.is_raised() ? Status::bad_col : Status::ok;
}

}  // namespace myops::cpu
