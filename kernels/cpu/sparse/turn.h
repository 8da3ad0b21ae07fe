// A row-major copy of a column-major matrix: blocks turned in registers, along the rows of the copy.
//
// Bound: a stream in, a stream out. Down the columns instead, the stores of 8-byte elements take up to six times as
// long where rows of the copy are a multiple of 4096 bytes apart.
#pragma once
#include "../../sparse_view.h"
#include "../gemm/driver.h"

namespace myops::cpu {

constexpr int64_t kTurnGrain = 16384;  // elements, below which a second thread does not pay

// E: lanes that elements of S are turned in.
template <class Isa, class E, class S>
void turn_typed(const Turn& p, const Runtime& rt) {
  constexpr int L = Isa::template lanes<E>;
  const int64_t across = ceil_div(p.cols, L), tasks = ceil_div(p.rows, L) * across;  // blocks
  for_ranges(rt, rt.threads > 1 && p.rows * p.cols > kTurnGrain, tasks, [&](int64_t begin, int64_t end) {
    int64_t i = begin / across * L, j = begin % across * L;
    for (int64_t task = begin; task < end; ++task) {
      const S* const from = static_cast<const S*>(p.from) + i + j * p.column;
      S* const to = static_cast<S*>(p.to) + i * p.cols + j;
      const int rows = static_cast<int>(min64(L, p.rows - i)), cols = static_cast<int>(min64(L, p.cols - j));
      turn_block<Isa, E>(
          cols, rows, [&](int c, int n) { return load_converted<Isa, E, S>(from + c * p.column, n); },
          [&](int r, typename Isa::template Vec<E> v, int n) { store_converted<Isa, E, S>(to + r * p.cols, v, n); });
      j += L;
      if (j >= p.cols) j = 0, i += L;
    }
  });
}

template <class Isa>
void turn(const Turn& p, const Runtime& rt) {
  switch (p.bytes) {
    case 1: return turn_typed<Isa, uint32_t, uint8_t>(p, rt);
    case 2: return turn_typed<Isa, uint32_t, uint16_t>(p, rt);
    case 4: return turn_typed<Isa, uint32_t, uint32_t>(p, rt);
    default: return turn_typed<Isa, uint64_t, uint64_t>(p, rt);
  }
}

}  // namespace myops::cpu
