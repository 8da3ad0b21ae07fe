// C = A @ B for three matrices in CSR, row by row.
//
//   1  before[e]: how many products the entries of A before e have        (scan of the lengths of rows of B)
//   2  rows of C by their number of products, into bins; the host reads how many there are in each, and what was found
//   3  count: how many columns each row has
//   4  rows of C by their number of columns, into bins; the host reads these and their sum, and the caller allocates C
//   5  fill: columns and sums
//
// How a row is counted and filled: spgemm_shared.cuh, and spgemm_sorted.cuh where B has very many columns.
//
// Bound: the columns and values of B out of L2, 4 bytes a product and walk, three walks, and 4 for its value.
#include <algorithm>
#include <limits>
#include <type_traits>
#include <vector>

#include "sort.h"
#include "spgemm_shared.cuh"
#include "spgemm_sorted.cuh"

namespace myops {
namespace {

// crow of C, in the width of its indices.
__global__ void __launch_bounds__(kThreads) write_crow(const int64_t* starts, int64_t rows, bool wide, void* crow) {
  if (const int64_t i = thread_in_grid(); i <= rows) store_index(crow, wide, i, starts[i]);
}
// The row of every entry.
__global__ void __launch_bounds__(kThreads) write_rows(const int64_t* starts, int64_t rows, bool wide, void* row) {
  const int64_t e = thread_in_grid();
  if (e >= starts[rows]) return;
  store_index(row, wide, e, lower_bound(rows, e + 1, [&](int64_t i) { return starts[i + 1]; }));
}

// ---- The host -------------------------------------------------------------------------------------------------------

struct HugeRows {
  const int64_t* list = nullptr;
  int64_t rows = 0;
  int64_t* starts = nullptr;  // on the device
  std::vector<int64_t> starts_on_host;
};

template <class T>
cudaError_t read_back(T* to, const T* from, int64_t count, const SparseSession& session) {
  MYOPS_CUDA_TRY(cudaMemcpyAsync(to, from, count * sizeof(T), cudaMemcpyDeviceToHost, session.stream));
  return cudaStreamSynchronize(session.stream);
}

template <class Acc>
class Multiplication {
 public:
  Multiplication(const Spgemm& problem, const SparseSession& session) : session_(session) {
    p_.A = problem.A;
    p_.B = problem.B;
    p_.a = problem.a;
    p_.b = problem.b;
    p_.type = problem.type;
    p_.wide = problem.A.wide;
    p_.increasing = false;
    p_.col = p_.values = nullptr;
  }

  cudaError_t run(const SpgemmSink& sink, Status* status) {
    MYOPS_CUDA_TRY(prepare());
    MYOPS_CUDA_TRY(make_bins<false>());
    *status = status_of(static_cast<unsigned>(bins_.findings));
    if (*status != Status::ok) return cudaSuccess;
    p_.increasing = bins_.unordered == 0;
    if (!by_bits_) MYOPS_CUDA_TRY(prepare_huge_rows());

    MYOPS_CUDA_TRY(count());
    MYOPS_CUDA_TRY(launch_scan(Same{p_.lengths}, p_.A.rows, length_words_, p_.lengths, session_));
    MYOPS_CUDA_TRY(by_bits_ ? make_bins<true>() : read_back(&bins_.nnz, p_.lengths + p_.A.rows, 1, session_));
    if (!p_.wide && bins_.nnz > std::numeric_limits<int32_t>::max()) {
      *status = Status::too_many_entries;
      return cudaSuccess;
    }
    const SpgemmResult result = sink(bins_.nnz);
    p_.col = result.col;
    p_.values = result.values;
    MYOPS_CUDA_TRY(
        launch(&write_crow, blocks_of(p_.A.rows + 1, kThreads), p_.lengths, p_.A.rows, p_.wide, result.crow));
    if (result.row != nullptr)
      MYOPS_CUDA_TRY(launch(&write_rows, blocks_of(bins_.nnz, kThreads), p_.lengths, p_.A.rows, p_.wide, result.row));
    return fill();
  }

 private:
  template <class... Parameters, class... Arguments>
  cudaError_t launch(void (*kernel)(Parameters...), int64_t blocks, const Arguments&... arguments) {
    return launch_kernel(kernel, grid_of(blocks), dim3(kThreads), 0, session_.stream, arguments...);
  }

  // Steps 1 and before. Everything that is zero at first lies together.
  cudaError_t prepare() {
    const int64_t bins = 2 * sizeof(Bins) / sizeof(Word), of_entries = scan_words(p_.A.nnz);
    const int64_t words = bins + of_entries + scan_words(p_.A.rows);
    Word* const zeros = session_.array<Word>(words);
    MYOPS_CUDA_TRY(cudaMemsetAsync(zeros, 0, words * sizeof(Word), session_.stream));
    device_bins_ = reinterpret_cast<Bins*>(zeros);
    length_words_ = zeros + bins + of_entries;
    const int64_t items = std::max({p_.A.nnz, p_.A.rows, p_.B.nnz, p_.B.rows});
    MYOPS_CUDA_TRY(launch(&check_operands, blocks_of(items, kThreads), p_.A, p_.B, device_bins_, session_.findings));
    int64_t* const before = session_.array<int64_t>(p_.A.nnz + 1);
    MYOPS_CUDA_TRY(launch_scan(ProductsOfEntry{p_.A, p_.B}, p_.A.nnz, zeros + bins, before, session_));
    p_.before = before;
    p_.lengths = session_.array<int64_t>(p_.A.rows + 1);
    lists_ = session_.array<int64_t>(kBins * p_.A.rows);
    int device = 0, shared = 0;
    MYOPS_CUDA_TRY(cudaGetDevice(&device));
    MYOPS_CUDA_TRY(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    shared_ = shared - static_cast<int64_t>(kOwnShared);
    by_bits_ = p_.B.cols <= kMostMarked && p_.B.nnz <= kMostEntries && fill_room(kHugeBin) > 0;
    return cudaSuccess;
  }

  // Rows by their products, or by their columns; the host waits.
  template <bool kColumns>
  cudaError_t make_bins() {
    if (by_bits_) {
      capacity_ = kColumns ? Capacities{{0, 512, 2048, 4096, INT64_MAX}}
                           : Capacities{{kWarpProducts, 1024, 16384, INT64_MAX, INT64_MAX}};
    } else if (!kColumns) {
      int64_t largest = int64_t(1) << kNumberBits;
      while (static_cast<int64_t>(block_bytes<Acc, uint64_t, true>(largest)) > shared_) largest /= 2;
      capacity_ = {{kWarpProducts, 256, 1024, largest, INT64_MAX}};
      // A key has room for columns up to 2^51; beyond, all rows are sorted in global memory, whose keys have other
      // parts.
      if (bits_for(p_.B.cols) + kNumberBits > 64) capacity_ = {{0, 0, 0, 0, INT64_MAX}};
    }
    Bins* const bins = device_bins_ + kColumns;
    MYOPS_CUDA_TRY(launch(&sort_into_bins<kColumns>, blocks_of(p_.A.rows, kThreads), p_, capacity_, bins, lists_,
                          session_.findings));
    const unsigned long long short_rows = bins_.rows[0];
    MYOPS_CUDA_TRY(read_back(&bins_, bins, 1, session_));
    if (kColumns) bins_.rows[0] = short_rows;  // in their list still
    return cudaSuccess;
  }

  cudaError_t prepare_huge_rows() {
    huge_.list = list(kHugeBin);
    huge_.rows = rows_in(kHugeBin);
    if (huge_.rows == 0) return cudaSuccess;
    huge_.starts = session_.array<int64_t>(huge_.rows + 1);
    MYOPS_CUDA_TRY(
        launch(&count_row_products, blocks_of(huge_.rows, kThreads), p_, huge_.list, huge_.rows, huge_.starts));
    MYOPS_CUDA_TRY(launch_exclusive_scan(huge_.starts, huge_.rows, session_));
    huge_.starts_on_host.resize(huge_.rows + 1);
    return read_back(huge_.starts_on_host.data(), huge_.starts, huge_.rows + 1, session_);
  }

  int64_t rows_in(int bin) const { return static_cast<int64_t>(bins_.rows[bin]); }
  const int64_t* list(int bin) const { return lists_ + bin * p_.A.rows; }

  template <class Summed, bool kFill>
  cudaError_t launch_warps() {
    if (rows_in(0) == 0) return cudaSuccess;
    return launch(&warp_rows<Summed, kFill>, blocks_of(rows_in(0), kThreads / kWarpSize), p_, list(0), rows_in(0));
  }

  cudaError_t count() {
    if (!by_bits_) return sort<false>();
    MYOPS_CUDA_TRY((launch_warps<uint64_t, false>()));  // the same for all types
    const int64_t words = column_words(p_.B.cols);
    for (int bin = 1; bin < kBins; ++bin) {
      if (rows_in(bin) == 0) continue;
      const unsigned threads = bin == 1 ? 128 : bin == 2 ? 256 : kCountThreads;
      MYOPS_CUDA_TRY(launch_kernel(&count_columns, grid_of(rows_in(bin)), dim3(threads), words * kWordBits / 8,
                                   session_.stream, p_, list(bin), static_cast<int>(words)));
    }
    return cudaSuccess;
  }

  cudaError_t fill() {
    if (!by_bits_) return sort<true>();
    MYOPS_CUDA_TRY((launch_warps<Acc, true>()));
    const bool plain = !(p_.type == DType::bf16 || p_.type == DType::f16 || p_.type == DType::i8 ||
                         p_.type == DType::u8 || p_.type == DType::i16 || p_.type == DType::i32);
    for (int bin = kHugeBin; bin > 0; --bin)  // the longest rows first
      if (rows_in(bin) > 0) MYOPS_CUDA_TRY(plain ? launch_fill<true>(bin) : launch_fill<false>(bin));
    return cudaSuccess;
  }

  static int64_t fill_parts(int bin) { return bin == kHugeBin ? 8 : 4; }
  // The most columns of a row of a bin, once rows are sorted by them.
  int64_t columns_in(int bin) const {
    return bin == kHugeBin ? static_cast<int64_t>(bins_.longest) : std::min(p_.B.cols, capacity_.of[bin]);
  }
  // Sums that a block has room for in each part, and those that it keeps; multiples of kLeastSums.
  static constexpr int64_t kLeastSums = 32;
  int64_t fill_room(int bin) const {
    const int64_t parts = fill_parts(bin), left = shared_ - fill_bytes<Acc>(0, parts, column_words(p_.B.cols));
    return left < 0 ? 0 : left / (parts * static_cast<int64_t>(sizeof(Acc))) / kLeastSums * kLeastSums;
  }
  int64_t fill_capacity(int bin) const {
    return std::min(blocks_of(columns_in(bin), kLeastSums) * kLeastSums, fill_room(bin));
  }

  template <bool kPlain>
  cudaError_t launch_fill(int bin) {
    const int64_t parts = fill_parts(bin), capacity = fill_capacity(bin), words = column_words(p_.B.cols);
    const int64_t blocks = blocks_of(columns_in(bin), capacity);
    return launch_kernel(&fill_rows<Acc, kPlain>,
                         dim3(static_cast<unsigned>(rows_in(bin)), static_cast<unsigned>(blocks)),
                         dim3(static_cast<unsigned>(parts * kWarpSize)), fill_bytes<Acc>(capacity, parts, words),
                         session_.stream, p_, list(bin), static_cast<int>(capacity), static_cast<int>(words));
  }

  // Counts (lengths) or fills (from lengths, which by then say where rows begin) the rows of all bins.
  template <bool kFill>
  cudaError_t sort() {
    using Summed = std::conditional_t<kFill, Acc, uint64_t>;
    MYOPS_CUDA_TRY((launch_warps<Summed, kFill>()));
    for (int bin = 1; bin < kHugeBin; ++bin) {
      if (rows_in(bin) == 0) continue;
      MYOPS_CUDA_TRY(bits_for(p_.B.cols) + bits_for(capacity_.of[bin]) <= 32
                         ? launch_blocks<Summed, uint32_t, kFill>(bin)
                         : launch_blocks<Summed, uint64_t, kFill>(bin));
    }
    return huge_pass(kFill);
  }

  template <class Summed, class Key, bool kFill>
  cudaError_t launch_blocks(int bin) {
    const int64_t capacity = capacity_.of[bin];
    return launch_kernel(&block_rows<Summed, Key, kFill>, grid_of(static_cast<int64_t>(bins_.rows[bin])),
                         dim3(static_cast<unsigned>(capacity / kOwn)), block_bytes<Summed, Key, kFill>(capacity),
                         session_.stream, p_, list(bin), static_cast<int>(capacity), bits_for(capacity));
  }

  cudaError_t huge_pass(bool fill) {
    const int column_bits = bits_for(p_.B.cols);
    const int64_t most_rows = int64_t(1) << (64 - column_bits < 31 ? 64 - column_bits : 31);
    const std::vector<int64_t>& starts = huge_.starts_on_host;
    for (int64_t first = 0, end = 0; first < huge_.rows; first = end) {
      end = first + 1;
      while (end < huge_.rows && end - first < most_rows && starts[end + 1] - starts[first] <= kBatch) ++end;
      const SparseScope scope(session_);
      Batch batch{huge_.list,  huge_.starts, first,   end - first, starts[end] - starts[first],
                  column_bits, nullptr,      nullptr, nullptr};
      uint64_t* const keys = session_.array<uint64_t>(batch.count);
      uint64_t* const sorted = session_.array<uint64_t>(batch.count);
      uint64_t* const order = session_.array<uint64_t>(batch.count);
      batch.heads = session_.array<int64_t>(batch.count + 1);
      batch.keys = sorted;
      batch.order = order;
      const int64_t blocks = blocks_of(batch.count, kThreads);
      MYOPS_CUDA_TRY(launch(&make_keys, blocks, p_, batch, keys));
      MYOPS_CUDA_TRY(
          launch_sort<uint64_t>(keys, batch.count, bits_for(batch.rows) + column_bits, sorted, order, session_));
      MYOPS_CUDA_TRY(launch(&mark_heads, blocks, batch));
      MYOPS_CUDA_TRY(launch_exclusive_scan(batch.heads, batch.count, session_));
      MYOPS_CUDA_TRY(fill ? launch(&fill_batch<Acc>, blocks, p_, batch)
                          : launch(&count_heads, blocks_of(batch.rows, kThreads), p_, batch));
    }
    return cudaSuccess;
  }

  const SparseSession& session_;
  Product p_;
  int64_t* lists_ = nullptr;
  Capacities capacity_ = {};
  Bins bins_ = {};
  Bins* device_bins_ = nullptr;
  Word* length_words_ = nullptr;
  int64_t shared_ = 0;  // of a block
  bool by_bits_ = false;
  HugeRows huge_;
};

}  // namespace

cudaError_t launch_spgemm(const Spgemm& problem, const SpgemmSink& sink, const SparseSession& session, Status* status) {
  return with_accumulator(problem.type, [&](auto accumulator) {
    return Multiplication<decltype(accumulator)>(problem, session).run(sink, status);
  });
}

}  // namespace myops
