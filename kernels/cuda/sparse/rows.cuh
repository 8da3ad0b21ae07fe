// The rows of D out of the entries of A and the rows of B that they name; rows.h says which lanes do what.
//
// Written once for every way of putting products together: Reduction is Sum (spmm.cuh) or Best (extremum.cu). Its State
// is what one lane knows of one element of D; States of disjoint entries merge, and the order in which they do depends
// on the pattern, the width and kVector. B is read by whole packs where its rows are aligned to them (kVector > 1).
//
// A block reads the indices and values of its chunk once, checks them, and keeps them in shared memory. A row that
// begins and ends in one team is finished there; one that ends in a later team is put together by that team, out of
// shared memory; one that ends in a later chunk by a second kernel, out of what each chunk has left (Carry).
//
// Bound: the gather, kUnroll rows of B in flight for each team.
#pragma once
#include "pattern.cuh"
#include "rows.h"

namespace myops {

static_assert(kThreads == 1 << kThreadsShift, "rows.h counts in these");

constexpr int kUnroll = 4;
constexpr int kWarps = kThreads / kWarpSize;

template <class State>
struct Carry {
  int64_t* rows = nullptr;  // the first row that ends in or after chunk c
  State* heads = nullptr;   // N for each chunk: of the row that began before it and ends in it
  State* tails = nullptr;   // of the row that goes on after it
};

// What a block keeps in shared memory.
template <class Reduction>
struct Chunk {
  using State = typename Reduction::State;
  using T = typename Reduction::Stored;
  State* tails;    // of each team, a thread's states kThreads apart
  T* values;       // of the entries
  uint32_t* cols;  // in range
  uint16_t* ends;  // of the rows that end here, in entries
  int64_t* rows;   // where the path of this chunk begins and ends
  uint32_t* bad;   // of each warp: found a bad index

  static constexpr int64_t kFixed =
      kThreads * Reduction::kVector * int64_t(sizeof(State)) + 2 * sizeof(int64_t) + kWarps * sizeof(uint32_t);
  static constexpr int64_t kEach = sizeof(T) + sizeof(uint32_t) + sizeof(uint16_t);

  __device__ __forceinline__ Chunk(unsigned char* memory, int steps)
      : tails(reinterpret_cast<State*>(memory)),
        values(reinterpret_cast<T*>(tails + kThreads * Reduction::kVector)),
        cols(reinterpret_cast<uint32_t*>(values + steps)),
        ends(reinterpret_cast<uint16_t*>(cols + steps)),
        rows(reinterpret_cast<int64_t*>(ends + steps)),
        bad(reinterpret_cast<uint32_t*>(rows + 2)) {}
};

// Reads and checks the entries of a chunk and the ends of its rows; whether something is wrong. A thread has the loads
// of its first row and of kBatch entries under way before it waits for one, so Index is the type in memory: a
// conversion beside each load would wait for it.
template <class Index, class Reduction>
__device__ __forceinline__ bool fill_chunk(const typename Reduction::Problem& p, const Chunk<Reduction>& chunk,
                                           int64_t first, int entries, int64_t first_row, int rows, bool& opened,
                                           unsigned* findings) {
  using T = typename Reduction::Stored;
  constexpr int kBatch = sizeof(Index) + sizeof(T) <= 8 ? 8 : 4;
  const int thread = static_cast<int>(threadIdx.x);
  const Index *const crow = static_cast<const Index*>(p.A.crow) + first_row, *const cols =
                                                                                 static_cast<const Index*>(p.A.col) +
                                                                                 first;
  const Index* const perm = static_cast<const Index*>(Reduction::permutation(p));
  const T* const values = static_cast<const T*>(p.values);
  const Index first_begin = crow[0];
  Index row_begin = 0, row_end = 0;
  if (thread < rows) row_begin = crow[thread], row_end = crow[thread + 1];
  bool bad = false;
#pragma unroll 1
  for (int i = thread; i < entries; i += kBatch * kThreads) {
    const auto each = [&](const auto& body) {
#pragma unroll
      for (int u = 0; u < kBatch; ++u)
        if (i + u * kThreads < entries) body(u, i + u * kThreads);
    };
    Index col[kBatch];
    T value[kBatch];
    each([&](int u, int e) { col[u] = cols[e]; });
    if (perm == nullptr) {
      each([&](int u, int e) { value[u] = values[first + e]; });
    } else {
      Index at[kBatch];
      each([&](int u, int e) { at[u] = perm[first + e]; });
      each([&](int u, int) {
        const bool there = inside(at[u], p.A.nnz);
        bad = bad || !there;
        value[u] = values[there ? at[u] : 0];
      });
    }
    each([&](int u, int e) {
      bad = bad || !inside(col[u], p.A.cols);
      shared_store(&chunk.values[e], value[u]);
      shared_store(&chunk.cols[e], static_cast<uint32_t>(col[u]));
    });
  }
  if (bad) report(findings, Status::bad_col);
#pragma unroll 1
  for (int i = thread; i < rows; i += kThreads) {
    if (i != thread) row_begin = crow[i], row_end = crow[i + 1];
    const bool sound = check_range(p.A, first_row + i, {row_begin, row_end}, findings);
    const int64_t end = sound ? row_end - first : 0;
    if (!sound || !inside(end, entries + 1)) bad = true;
    shared_store(&chunk.ends[i], static_cast<uint16_t>(end));
  }
  if (first_begin > first) {
    bad = true;
    report(findings, Status::bad_crow);
  }
  opened = first_begin < first;
  return bad;
}

// Adds entries [from, to) of the chunk to the states of kVector columns, at B.
template <class Reduction>
__device__ __forceinline__ void walk(const typename Reduction::Problem& p, const Chunk<Reduction>& chunk, int64_t first,
                                     int from, int to, const typename Reduction::Stored* B,
                                     typename Reduction::State (&states)[Reduction::kVector]) {
  using T = typename Reduction::Stored;
  constexpr int kVector = Reduction::kVector;
  Pack<T, kVector> x[kUnroll];
  T v[kUnroll];
  const auto load = [&](int u) {
    const int64_t col = shared_load(&chunk.cols[from + u]);
    v[u] = shared_load(&chunk.values[from + u]);
    x[u] = load_neighbours<kVector>(B + col * p.b_row);
  };
  const auto add = [&](int u) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) Reduction::add(p, states[i], first + from + u, v[u], x[u].v[i]);
  };
#pragma unroll 1
  for (; from + kUnroll <= to; from += kUnroll) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) load(u);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) add(u);
  }
#pragma unroll
  for (int u = 0; u < kUnroll - 1; ++u)
    if (from + u < to) load(u);
#pragma unroll
  for (int u = 0; u < kUnroll - 1; ++u)
    if (from + u < to) add(u);
}

// Blocks at once on a multiprocessor, at least; what a lane holds of D decides.
template <class Reduction, class State = typename Reduction::State, int kBytes = Reduction::kVector * sizeof(State)>
constexpr int kRowBlocks = sizeof(State) == 4 && kBytes <= 16 ? 4
                           : kBytes <= 32                     ? 3
                                                              : kBlocksAtOnce;

template <class Reduction>
__global__ void __launch_bounds__(kThreads, kRowBlocks<Reduction>)
    reduce_rows(const __grid_constant__ typename Reduction::Problem p, const __grid_constant__ RowsPlan plan,
                const Carry<typename Reduction::State> carry, unsigned* findings) {
  using State = typename Reduction::State;
  using T = typename Reduction::Stored;
  constexpr int kVector = Reduction::kVector;
  let_next_kernel_begin();
  const Chunk<Reduction> chunk(dynamic_shared<unsigned char>(), plan.steps);
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarpSize;
  // The blocks of one tile of columns follow each other, so that the tile's part of B stays in the caches.
  const unsigned chunks = static_cast<unsigned>(plan.chunks), tile = blockIdx.x / chunks,
                 c = blockIdx.x - tile * chunks;
  const int64_t path = p.A.rows + p.A.nnz, begin = static_cast<int64_t>(c) * plan.steps;
  const int64_t end = begin + plan.steps < path ? begin + plan.steps : path;

  if (warp < 2) {
    const int64_t before = rows_before(p.A, warp == 0 ? begin : end);
    if (thread % kWarpSize == 0) shared_store(&chunk.rows[warp], before);
  }
  __syncthreads();
  const int64_t first_row = shared_load(&chunk.rows[0]), last_row = shared_load(&chunk.rows[1]);
  const int64_t first = begin - first_row, last = end - last_row;  // entries
  if (tile == 0 && thread == 0 && carry.rows != nullptr) carry.rows[c] = first_row;
  if (first_row > last_row || first > last || first < 0 || last > p.A.nnz || first_row == p.A.rows ||
      (c + 1 == chunks && last_row != p.A.rows))
    return report(findings, Status::bad_crow);
  const int entries = static_cast<int>(last - first), rows = static_cast<int>(last_row - first_row);

  bool opened;  // the first row began in an earlier chunk
  const bool bad = p.A.wide ? fill_chunk<int64_t>(p, chunk, first, entries, first_row, rows, opened, findings)
                            : fill_chunk<int32_t>(p, chunk, first, entries, first_row, rows, opened, findings);
  const bool warp_bad = __ballot_sync(kAllLanes, bad) != 0;
  if (thread % kWarpSize == 0) shared_store(&chunk.bad[warp], static_cast<uint32_t>(warp_bad));
  __syncthreads();
  if (__ballot_sync(kAllLanes, shared_load(&chunk.bad[thread % kWarps]) != 0) != 0) return;

  // From here on entries and rows are those of the chunk. A row begins at -1 where it began before.
  const auto end_of = [&](int i) -> int { return shared_load(&chunk.ends[i]); };
  const auto begin_of = [&](int i) -> int { return i > 0 ? end_of(i - 1) : opened ? -1 : 0; };
  const int team = thread >> plan.group_shift, lane = thread & ((1 << plan.group_shift) - 1);
  const int64_t column = ((static_cast<int64_t>(tile) << plan.group_shift) + lane) * kVector;
  const bool mine = column < p.N;
  const int steps = entries + rows, from = team * plan.team_steps;
  const int until = from + plan.team_steps < steps ? from + plan.team_steps : steps;
  const T* const B = static_cast<const T*>(p.B) + column;
  State states[kVector];
  bool closing = false;  // the team ends a row that it did not begin, whose states it walks last
  int row = 0;
  if (from < until) {
    row = lower_bound(rows, from, [&](int i) { return end_of(i) + i; });
    const int entry = from - row;
    closing = begin_of(row) < entry && row < rows && end_of(row) + row < until;
    int r = closing ? row + 1 : row, e = closing ? end_of(row) : entry;
#pragma unroll 1
    for (bool head = false;;) {
      const bool ends = r < rows && end_of(r) + r < until;
      const int to = head ? end_of(row) : ends ? end_of(r) : until - r;
#pragma unroll
      for (int i = 0; i < kVector; ++i) states[i] = Reduction::start(p);
      if (mine) walk<Reduction>(p, chunk, first, e, to, B, states);
      if (head) break;
      if (ends) {
        if (mine) Reduction::finish(p, first_row + r, column, to - e, states);
        e = to;
        ++r;
        continue;
      }
#pragma unroll
      for (int i = 0; i < kVector; ++i) shared_store(&chunk.tails[i * kThreads + thread], states[i]);
      if (!closing) break;
      head = true;
      e = entry;
    }
  }
  __syncthreads();

  // The first team has no teams before it: it puts together what goes on after the chunk.
  const bool carries = team == 0;
  if (carries) {
    if (closing && mine)
#pragma unroll
      for (int i = 0; i < kVector; ++i) carry.heads[c * p.N + column + i] = states[i];
#pragma unroll
    for (int i = 0; i < kVector; ++i) states[i] = Reduction::start(p);
    row = rows;
    closing = begin_of(row) < entries;
  }
  if (!closing || !mine) return;
  const int row_begin = begin_of(row);
  const unsigned team_steps = plan.team_steps;
  int t = carries ? static_cast<int>(unsigned(steps - 1) / team_steps) : team - 1;
  const int first_team = row_begin < 0 ? 0 : static_cast<int>(unsigned(row_begin + row) / team_steps);
#pragma unroll 4
  for (; t >= first_team; --t)
#pragma unroll
    for (int i = 0; i < kVector; ++i)
      Reduction::merge(p, states[i], shared_load(&chunk.tails[i * kThreads + (t << plan.group_shift) + lane]));
  if (carries || row_begin < 0) {
    State* const to = (carries ? carry.tails : carry.heads) + c * p.N + column;
#pragma unroll
    for (int i = 0; i < kVector; ++i) to[i] = states[i];
  } else {
    Reduction::finish(p, first_row + row, column, end_of(row) - row_begin, states);
  }
}

// The rows that end in another chunk than they began in: a warp for each chunk and tile of columns.
template <class Reduction>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    close_rows(const __grid_constant__ typename Reduction::Problem p, const __grid_constant__ RowsPlan plan,
               const Carry<typename Reduction::State> carry, unsigned* findings) {
  using State = typename Reduction::State;
  constexpr int kVector = Reduction::kVector;
  const unsigned unit = blockIdx.x * kWarps + threadIdx.x / kWarpSize, tiles = static_cast<unsigned>(plan.tiles);
  const unsigned before = unit / tiles, tile = unit - before * tiles;
  const int64_t c = static_cast<int64_t>(before) + 1;
  wait_for_previous_kernel();
  if (c >= plan.chunks) return;
  const int64_t row = carry.rows[c], next = c + 1 < plan.chunks ? carry.rows[c + 1] : p.A.rows;
  if (row >= p.A.rows || next == row) return;
  const Range range = row_range(p.A, row, findings);
  if (range.begin >= c * plan.steps - row) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int64_t column =
      ((static_cast<int64_t>(tile) << plan.group_shift) + (lane & ((1 << plan.group_shift) - 1))) * kVector;
  const int part_lane = lane >> plan.group_shift, part_lanes = kWarpSize >> plan.group_shift;
  const bool mine = column < p.N;
  State states[kVector];
#pragma unroll
  for (int i = 0; i < kVector; ++i)
    states[i] = mine && part_lane == 0 ? carry.heads[c * p.N + column + i] : Reduction::start(p);
  constexpr int kAhead = kVector <= 4 ? 8 : 32 / kVector;
  if (mine)
#pragma unroll kAhead
    for (int64_t k = (range.begin + row) / plan.steps + part_lane; k < c; k += part_lanes)
#pragma unroll
      for (int i = 0; i < kVector; ++i) Reduction::merge(p, states[i], carry.tails[k * p.N + column + i]);
  for (int lanes = 1 << plan.group_shift; lanes < kWarpSize; lanes *= 2)  // whole warps come here
#pragma unroll
    for (int i = 0; i < kVector; ++i) Reduction::merge(p, states[i], Reduction::exchange(states[i], lanes));
  if (mine && part_lane == 0) Reduction::finish(p, row, column, range.size(), states);
}

template <class Reduction>
cudaError_t launch_rows(const typename Reduction::Problem& p, const SparseSession& session) {
  using State = typename Reduction::State;
  if (p.A.rows == 0 || p.N == 0) return cudaSuccess;
  if (p.A.cols > kMostColumns) return cudaErrorInvalidValue;
  const RowsPlan plan = plan_rows(p.A, p.N, Reduction::kVector);
  Carry<State> carry;
  if (plan.chunks > 1) {
    carry.rows = session.array<int64_t>(plan.chunks);
    carry.heads = session.array<State>(plan.chunks * p.N);
    carry.tails = session.array<State>(plan.chunks * p.N);
  }
  const size_t shared = Chunk<Reduction>::kFixed + plan.steps * Chunk<Reduction>::kEach;
  const cudaError_t error = launch_kernel(&reduce_rows<Reduction>, grid_of(plan.chunks * plan.tiles), dim3(kThreads),
                                          shared, session.stream, p, plan, carry, session.findings);
  if (error != cudaSuccess || plan.chunks == 1) return error;
  return launch_kernel_early(session.early, &close_rows<Reduction>,
                             grid_of(blocks_of((plan.chunks - 1) * plan.tiles, kWarps)), dim3(kThreads), 0,
                             session.stream, p, plan, carry, session.findings);
}

}  // namespace myops
