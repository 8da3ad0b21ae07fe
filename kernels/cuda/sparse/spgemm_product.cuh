// Sparse times sparse (spgemm.cu): the products of a row of C, and rows by how many they have.
#pragma once
#include "spgemm.cuh"

namespace myops {
namespace {

constexpr int kBins = 5;
constexpr int kHugeBin = kBins - 1;
constexpr int kNumberBits = 13;  // of a product in a row that a block sorts
constexpr int64_t kWarpProducts = kWarpSize;

// Products that the rows of a bin have at most.
struct Capacities {
  int64_t of[kBins];
};

// What every kernel reads, and where results go.
struct Product {
  Csr A, B;
  const void *a, *b;
  DType type;
  const int64_t* before;  // of nnz(A) + 1 entries
  int64_t* lengths;       // of the rows of C; then, summed up, where each begins
  bool wide;
  bool increasing;     // the columns of every row of B, so that none is repeated
  void *col, *values;  // of C

  __device__ __forceinline__ Range row(int64_t i) const {
    return {load_index(A.crow, A.wide, i), load_index(A.crow, A.wide, i + 1)};
  }
  __device__ __forceinline__ int64_t products(Range entries) const {
    return before[entries.end] - before[entries.begin];
  }

  // The entries of A and B that make product `number` of a row of C.
  __device__ __forceinline__ void find(Range entries, int64_t number, int64_t& e, int64_t& n) const {
    const int64_t all = before[entries.begin] + number;
    e = entries.begin +
        lower_bound(entries.size() - 1, all + 1, [&](int64_t i) { return before[entries.begin + 1 + i]; });
    n = load_index(B.crow, B.wide, load_index(A.col, A.wide, e)) + all - before[e];
  }
  template <class Acc>
  __device__ __forceinline__ Acc value(int64_t e, int64_t n) const {
    return times(load_value<Acc>(type, a, e), load_value<Acc>(type, b, n));
  }
  template <class Acc>
  __device__ __forceinline__ void write(int64_t at, int64_t column, Acc sum) const {
    store_index(col, wide, at, column);
    store_value(type, values, at, sum);
  }
};

// What the host reads after steps 2 and 4.
struct Bins {
  unsigned long long rows[kBins];  // with products at all
  unsigned long long unordered;    // not 0: a row of B has columns that do not increase
  unsigned long long findings;
  unsigned long long longest;  // size of a row of the last bin
  int64_t nnz;
};

__global__ void __launch_bounds__(kThreads) check_operands(const Csr A, const Csr B, Bins* bins, unsigned* findings) {
  const int64_t i = thread_in_grid();
  check_item(A, i, findings);
  check_item(B, i, findings);
  if (i == 0 || i >= B.nnz || load_index(B.col, B.wide, i - 1) < load_index(B.col, B.wide, i)) return;
  if (already_set(&bins->unordered)) return;
  const int64_t row = lower_bound(B.rows, i, [&](int64_t r) { return load_index(B.crow, B.wide, r); });
  if (load_index(B.crow, B.wide, row) != i) atomicOr(&bins->unordered, 1ull);  // no row begins here
}

// Of a bad pattern any number: it is found before that matters.
struct ProductsOfEntry {
  Csr A, B;

  __device__ __forceinline__ int64_t operator()(int64_t e) const {
    const int64_t k = load_index(A.col, A.wide, e);
    return inside(k, B.rows) ? load_index(B.crow, B.wide, k + 1) - load_index(B.crow, B.wide, k) : 0;
  }
};

// By the number of products, or of columns where that is known and the row has more products than a warp takes.
// lists[bin]: room for all rows in each.
template <bool kColumns>
__global__ void __launch_bounds__(kThreads)
    sort_into_bins(const __grid_constant__ Product p, const __grid_constant__ Capacities capacity, Bins* bins,
                   int64_t* lists, unsigned* findings) {
  struct Shared {
    unsigned count[kBins];
    int64_t first[kBins];
  };
  Shared& shared = shared_storage<Shared>();
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < kBins) shared_store(&shared.count[thread], 0u);
  __syncthreads();
  const int64_t i = thread_in_grid();
  int64_t size = i < p.A.rows ? p.products(row_range(p.A, i, findings)) : 0;
  if (kColumns) {
    size = size > kWarpProducts ? p.lengths[i + 1] - p.lengths[i] : 0;
    if (i == 0) bins->nnz = p.lengths[p.A.rows];
  } else {
    if (i < p.A.rows && size == 0) p.lengths[i] = 0;
    if (i == 0) bins->findings = *findings;  // of the kernels before
  }
  int bin = 0;
  while (size > capacity.of[bin]) ++bin;
  if (bin == kHugeBin) atomicMax(&bins->longest, static_cast<unsigned long long>(size));
  const unsigned place = size > 0 ? atomicAdd(&shared.count[bin], 1u) : 0;
  __syncthreads();
  if (thread < kBins)
    if (const unsigned count = shared_load(&shared.count[thread]); count > 0)
      shared_store(&shared.first[thread],
                   static_cast<int64_t>(atomicAdd(&bins->rows[thread], static_cast<unsigned long long>(count))));
  __syncthreads();
  if (size > 0) lists[bin * p.A.rows + shared_load(&shared.first[bin]) + place] = i;
}

}  // namespace
}  // namespace myops
