// One row of D out of the entries of a row of A and the rows of B that they name; rows.h says which lanes do what.
//
// Written once for every way of putting products together: Reduction is Sum (spmm.cuh) or Best (extremum.cu). Its State
// is what one lane knows of one element of D; States of disjoint entries merge, and the order in which they do depends
// on the pattern and the width alone. B is read by whole packs where its rows allow it (kVector > 1).
//
// Bound: the gather, kUnroll rows of B in flight for each team.
#pragma once
#include "pattern.cuh"
#include "rows.h"

namespace myops {

static_assert(kThreads == 1 << kThreadsShift && kWarpSize == 1 << kWarpShift, "rows.h counts in these");

constexpr int kUnroll = 4;

struct Segment {
  int64_t row = -1;  // -1: none
  int64_t part = 0, parts = 0;
};
struct LongRow {
  int64_t row, first, parts;  // segments first .. first + parts
};

template <class State>
struct LongRows {
  unsigned long long* counts = nullptr;  // segments, rows
  Segment* segments = nullptr;
  LongRow* rows = nullptr;
  State* partial = nullptr;  // N for each segment
};

__device__ __forceinline__ int64_t parts_of(int64_t entries) {
  const int64_t parts = entries / kSegment;
  return parts < 2 ? 0 : parts < kMostSegments ? parts : kMostSegments;
}

// Lists the long rows and their segments, in any order. `most`: how many segments there is room for; a pattern that
// would need more has rows that overlap.
template <class State>
__global__ void __launch_bounds__(kThreads)
    find_long_rows(const Csr A, const LongRows<State> longs, int64_t most, unsigned* findings) {
  const int64_t i = thread_in_grid();
  const int64_t parts = i < A.rows ? parts_of(row_range(A, i, findings).size()) : 0;
  if (parts == 0) return;
  const int64_t first = static_cast<int64_t>(atomicAdd(&longs.counts[0], static_cast<unsigned long long>(parts)));
  const bool fits = first + parts <= most;
  for (int64_t s = 0; s < parts && first + s < most; ++s)
    longs.segments[first + s] = fits ? Segment{i, s, parts} : Segment{};
  if (fits)
    longs.rows[atomicAdd(&longs.counts[1], 1ull)] = {i, first, parts};
  else
    report(findings, Status::bad_crow);
}

// Adds the entries of `range` that are this entry lane's to the states of kVector columns.
template <class Reduction>
__device__ __forceinline__ void walk(const typename Reduction::Problem& p, Range range, int64_t column, int step,
                                     typename Reduction::State (&states)[Reduction::kVector], unsigned* findings) {
  using T = typename Reduction::Stored;
  constexpr int kVector = Reduction::kVector;
  const T* B = static_cast<const T*>(p.B) + column;
  const T* values = static_cast<const T*>(p.values);
  for (int64_t e = range.begin; e < range.end; e += kUnroll * step) {
    Pack<T, kVector> x[kUnroll];
    T v[kUnroll];
    bool good = true;
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t entry = e + u * step;
      if (entry >= range.end) continue;
      const int64_t col = load_index(p.A.col, p.A.wide, entry);
      const int64_t at = Reduction::value_of(p, entry);
      good = good && inside(col, p.A.cols) && inside(at, p.A.nnz);
      if (!good) continue;
      v[u] = values[at];
      x[u] = load_neighbours<kVector>(B + col * p.b_row);
    }
    if (!good) return report(findings, Status::bad_col);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u)
      if (e + u * step < range.end)
#pragma unroll
        for (int i = 0; i < kVector; ++i) Reduction::add(p, states[i], e + u * step, v[u], x[u].v[i]);
  }
}

template <class Reduction>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    reduce_rows(const __grid_constant__ typename Reduction::Problem p, const __grid_constant__ RowsPlan plan,
                const LongRows<typename Reduction::State> longs, unsigned* findings) {
  using State = typename Reduction::State;
  constexpr int kVector = Reduction::kVector;
  const int thread = static_cast<int>(threadIdx.x);
  const int column_lane = thread & ((1 << plan.group_shift) - 1);
  const int entry_lanes = 1 << (plan.team_shift - plan.group_shift);
  const int entry_lane = (thread >> plan.group_shift) & (entry_lanes - 1);
  const int team = thread >> plan.team_shift, teams = kThreads >> plan.team_shift;
  const int64_t segments = plan.segments == 0 ? 0 : static_cast<int64_t>(longs.counts[0]);

  // The blocks of one tile of columns follow each other, so that the tile's part of B stays in the L2 cache, and begin
  // with the segments, which take longest.
  const int64_t tile = blockIdx.x / plan.blocks_per_tile;
  const int64_t unit = (blockIdx.x - tile * plan.blocks_per_tile) * teams + team;
  const int64_t column = ((tile << plan.group_shift) + column_lane) * kVector;
  int64_t row = -1;
  Range range;
  if (unit < plan.segments) {
    const Segment segment = unit < segments ? longs.segments[unit] : Segment{};
    if (segment.row >= 0) {
      const Range whole = row_range(p.A, segment.row, findings);
      row = segment.row;
      range = {whole.begin + whole.size() * segment.part / segment.parts,
               whole.begin + whole.size() * (segment.part + 1) / segment.parts};
    }
  } else if (unit - plan.segments < p.A.rows) {
    range = row_range(p.A, unit - plan.segments, findings);
    if (parts_of(range.size()) == 0)
      row = unit - plan.segments;
    else
      range = {};
  }
  const bool mine = row >= 0 && column < p.N;
  State states[kVector];
#pragma unroll
  for (int i = 0; i < kVector; ++i) states[i] = Reduction::start(p);
  if (mine) walk<Reduction>(p, {range.begin + entry_lane, range.end}, column, entry_lanes, states, findings);
  for (int lanes = 1 << plan.group_shift; lanes < 1 << plan.team_shift; lanes *= 2)  // whole warps come here
#pragma unroll
    for (int i = 0; i < kVector; ++i) Reduction::merge(p, states[i], Reduction::exchange(states[i], lanes));
  if (!mine || entry_lane != 0) return;
  if (unit < plan.segments) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) longs.partial[unit * p.N + column + i] = states[i];
  } else {
    Reduction::finish(p, row, column, range.size(), states);
  }
}

// The segments of each long row, in their order.
template <class Reduction>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    finish_long_rows(const __grid_constant__ typename Reduction::Problem p,
                     const LongRows<typename Reduction::State> longs, unsigned* findings) {
  using State = typename Reduction::State;
  constexpr int kVector = Reduction::kVector;
  const int64_t packs = p.N / kVector, count = static_cast<int64_t>(longs.counts[1]) * packs;
  const int64_t item = thread_in_grid();
  if (item >= count) return;
  const LongRow l = longs.rows[item / packs];
  const int64_t column = item % packs * kVector;
  State states[kVector];
#pragma unroll
  for (int i = 0; i < kVector; ++i) states[i] = Reduction::start(p);
  for (int64_t s = l.first; s < l.first + l.parts; ++s)
#pragma unroll
    for (int i = 0; i < kVector; ++i) Reduction::merge(p, states[i], longs.partial[s * p.N + column + i]);
  Reduction::finish(p, l.row, column, row_range(p.A, l.row, findings).size(), states);
}

template <class Reduction>
cudaError_t launch_rows(const typename Reduction::Problem& p, const SparseSession& session) {
  using State = typename Reduction::State;
  const RowsPlan plan = plan_rows(p.A, p.N, Reduction::kVector);
  LongRows<State> longs;
  if (plan.segments > 0) {
    longs.counts = session.array<unsigned long long>(2);
    longs.segments = session.array<Segment>(plan.segments);
    longs.rows = session.array<LongRow>(plan.segments / 2);
    longs.partial = session.array<State>(plan.segments * p.N);
    cudaError_t error = cudaMemsetAsync(longs.counts, 0, 2 * sizeof(unsigned long long), session.stream);
    if (error == cudaSuccess)
      error = launch_kernel(&find_long_rows<State>, grid_of(blocks_of(p.A.rows, kThreads)), dim3(kThreads), 0,
                            session.stream, p.A, longs, plan.segments, session.findings);
    if (error != cudaSuccess) return error;
  }
  const cudaError_t error = launch_kernel(&reduce_rows<Reduction>, grid_of(plan.blocks), dim3(kThreads), 0,
                                          session.stream, p, plan, longs, session.findings);
  if (error != cudaSuccess || plan.segments == 0) return error;
  const int64_t items = plan.segments / 2 * (p.N / Reduction::kVector);
  return launch_kernel(&finish_long_rows<Reduction>, grid_of(blocks_of(items, kThreads)), dim3(kThreads), 0,
                       session.stream, p, longs, session.findings);
}

}  // namespace myops
