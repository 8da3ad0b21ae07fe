// The gradients of C = A @ B on the patterns of A and B, from one of C on any pattern:
//   grad_a[e], e = (i, k): the sum over the entries n = (k, j) of row k of B of C[i, j] * b[n]
//   grad_b[n], n = (k, j): the sum over the entries e = (i, k) of column k of A of a[e] * C[i, j]
//
// Each is a list of terms, one search in a row of C for each: never more terms than C = A @ B has products, and the
// lists are walked in order, by a team of lanes, or by a whole block where they are long. Columns of A come from its
// transpose. A row of C has to be in order to be searched; where one is not, C is sorted first, by two transposes.
#include "sort.h"
#include "spgemm.cuh"

namespace myops {
namespace {

constexpr int64_t kLongList = 1024;

// bit 0 of *unsorted where a row of C is out of order.
__global__ void __launch_bounds__(kThreads) check_order(const Csr C, unsigned* unsorted) {
  const int64_t e = thread_in_grid();
  if (e == 0 || e >= C.nnz || load_index(C.col, C.wide, e - 1) <= load_index(C.col, C.wide, e)) return;
  if (already_set(unsorted)) return;
  // Out of order, unless a row begins here: then some crow is e.
  const int64_t i = lower_bound(C.rows, e, [&](int64_t row) { return load_index(C.crow, C.wide, row); });
  if (load_index(C.crow, C.wide, i) != e) atomicOr(unsorted, 1u);
}

__global__ void __launch_bounds__(kThreads)
    compose(const void* first, const void* second, bool wide, int64_t count, void* both) {
  if (const int64_t x = thread_in_grid(); x < count)
    store_index(both, wide, x, load_index(first, wide, load_index(second, wide, x)));
}

struct Lists {
  SpgemmBackward p;               // C in order
  const void* order = nullptr;    // entry x of C has value c[order[x]]; nullptr: c[x]
  Csr columns;                    // of A: its transpose
  const void* entries = nullptr;  // of A, in the order of `columns`
  bool of_a = true;               // which gradient
  int team_shift = 0;
};

// C[i, j], repeated entries added up.
template <class Acc>
__device__ __forceinline__ Acc element(const Lists& l, int64_t i, int64_t j) {
  const Csr& C = l.p.C;
  const int64_t begin = load_index(C.crow, C.wide, i), end = load_index(C.crow, C.wide, i + 1);
  Acc sum{};
  int64_t x = begin + lower_bound(end - begin, j, [&](int64_t n) { return load_index(C.col, C.wide, begin + n); });
  for (; x < end && load_index(C.col, C.wide, x) == j; ++x)
    sum = plus(sum, load_value<Acc>(l.p.type, l.p.c, l.order == nullptr ? x : load_index(l.order, C.wide, x)));
  return sum;
}

// The list of one gradient: its terms are entries of B (of_a) or of columns of A.
struct List {
  int64_t fixed = 0;  // the row i (of_a) or the column j that all its terms have
  Range terms;
};

__device__ __forceinline__ List list_of(const Lists& l, int64_t unit) {
  const Csr& rows = l.of_a ? l.p.A : l.p.B;
  const int64_t row = row_of_entry(rows, unit, 0), col = load_index(rows.col, rows.wide, unit);
  const Csr& terms = l.of_a ? l.p.B : l.columns;
  const int64_t k = l.of_a ? col : row;
  return {l.of_a ? row : col, {load_index(terms.crow, terms.wide, k), load_index(terms.crow, terms.wide, k + 1)}};
}

template <class Acc>
__device__ __forceinline__ Acc add_terms(const Lists& l, const List& list, int64_t from, int step) {
  Acc sum{};
  for (int64_t x = list.terms.begin + from; x < list.terms.end; x += step) {
    if (l.of_a)
      multiply_add(sum, element<Acc>(l, list.fixed, load_index(l.p.B.col, l.p.B.wide, x)),
                   load_value<Acc>(l.p.type, l.p.b, x));
    else
      multiply_add(sum, load_value<Acc>(l.p.type, l.p.a, load_index(l.entries, l.p.A.wide, x)),
                   element<Acc>(l, load_index(l.columns.col, l.columns.wide, x), list.fixed));
  }
  return sum;
}

template <class Acc>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    add_lists(const __grid_constant__ Lists l, int64_t units, void* out) {
  struct Shared {
    BlockList longs;
    BlockReduction<Acc> sum;
  };
  Shared& shared = shared_storage<Shared>();
  const int lane = static_cast<int>(threadIdx.x) & ((1 << l.team_shift) - 1);
  shared.longs.clear();
  const int64_t unit = thread_in_grid() >> l.team_shift;
  const List list = unit < units ? list_of(l, unit) : List{};
  const bool is_long = list.terms.size() > kLongList;
  Acc sum = is_long ? Acc{} : add_terms<Acc>(l, list, lane, 1 << l.team_shift);
  for (int lanes = 1; lanes < 1 << l.team_shift; lanes *= 2) sum = plus(sum, shuffle_xor(sum, lanes));
  if (lane == 0 && unit < units) {
    if (is_long)
      shared.longs.add(unit);
    else
      store_value(l.p.type, out, unit, sum);
  }
  __syncthreads();
  const int longs = shared.longs.size();
  for (int i = 0; i < longs; ++i) {
    const int64_t together = shared.longs[i];
    const Acc all = shared.sum(add_terms<Acc>(l, list_of(l, together), threadIdx.x, kThreads));
    if (threadIdx.x == 0) store_value(l.p.type, out, together, all);
  }
}

template <class Acc>
cudaError_t launch_lists(Lists l, bool of_a, const SparseSession& session) {
  l.of_a = of_a;
  const int64_t units = of_a ? l.p.A.nnz : l.p.B.nnz;
  if (units == 0) return cudaSuccess;
  const Csr& terms = of_a ? l.p.B : l.columns;
  const int64_t mean = terms.rows > 0 ? terms.nnz / terms.rows : 0;
  while ((1 << l.team_shift) < kWarpSize && (int64_t(2) << l.team_shift) <= mean) ++l.team_shift;
  return launch_kernel(&add_lists<Acc>, grid_of(blocks_of(units, kThreads >> l.team_shift)), dim3(kThreads), 0,
                       session.stream, l, units, of_a ? l.p.grad_a : l.p.grad_b);
}

// The pattern by columns; entries: where each was.
cudaError_t transposed(const Csr& A, const SparseSession& session, Csr* columns, void** entries) {
  const int64_t bytes = A.wide ? 8 : 4;
  Transpose t;
  t.A = A;
  t.crow = session.array<char>((A.cols + 1) * bytes);
  t.col = session.array<char>(A.nnz * bytes);
  t.perm = session.array<char>(A.nnz * bytes);
  *columns = {A.cols, A.rows, A.nnz, t.crow, t.col, A.wide};
  *entries = t.perm;
  return launch_transpose(t, session);
}

cudaError_t sort_rows(const SparseSession& session, Lists* l) {
  Csr by_column;
  void *first = nullptr, *second = nullptr;
  const Csr unsorted = l->p.C;
  MYOPS_CUDA_TRY(transposed(unsorted, session, &by_column, &first));
  MYOPS_CUDA_TRY(transposed(by_column, session, &l->p.C, &second));
  void* const both = session.array<char>(unsorted.nnz * (unsorted.wide ? 8 : 4));
  l->order = both;
  return launch_kernel(&compose, grid_of(blocks_of(unsorted.nnz, kThreads)), dim3(kThreads), 0, session.stream,
                       static_cast<const void*>(first), static_cast<const void*>(second), unsorted.wide, unsorted.nnz,
                       both);
}

}  // namespace

cudaError_t launch_spgemm_backward(const SpgemmBackward& p, const SparseSession& session, Status* status) {
  for (const Csr& m : {p.A, p.B, p.C}) MYOPS_CUDA_TRY(launch_check(m, session));
  unsigned* const flag = session.array<unsigned>(1);
  unsigned unsorted = 0;
  MYOPS_CUDA_TRY(cudaMemsetAsync(flag, 0, sizeof(unsigned), session.stream));
  MYOPS_CUDA_TRY(
      launch_kernel(&check_order, grid_of(blocks_of(p.C.nnz, kThreads)), dim3(kThreads), 0, session.stream, p.C, flag));
  MYOPS_CUDA_TRY(cudaMemcpyAsync(&unsorted, flag, sizeof(unsigned), cudaMemcpyDeviceToHost, session.stream));
  MYOPS_CUDA_TRY(read_findings(session, status));  // which waits for both
  if (*status != Status::ok) return cudaSuccess;

  Lists l;
  l.p = p;
  if (unsorted != 0) MYOPS_CUDA_TRY(sort_rows(session, &l));
  if (p.grad_b != nullptr) {
    void* entries = nullptr;
    MYOPS_CUDA_TRY(transposed(p.A, session, &l.columns, &entries));
    l.entries = entries;
  }
  return with_accumulator(p.type, [&](auto accumulator) {
    using Acc = decltype(accumulator);
    if (p.grad_a != nullptr) MYOPS_CUDA_TRY(launch_lists<Acc>(l, true, session));
    return p.grad_b != nullptr ? launch_lists<Acc>(l, false, session) : cudaSuccess;
  });
}

}  // namespace myops
