// csr_transpose: the entries of a CSR pattern ordered by column, and where each of them was. csr_rows: crow of entries
// that are sorted by row, as those of a coalesced COO tensor are.
#pragma once
#include <tuple>
#include <utility>

#include "sparse_entry.h"

namespace myops {

struct Transposed {
  Tensor crow, col, perm;
};

// What the engine makes of a problem, in tensors of the dtype of `index`, one of its own.
template <class Backend>
std::pair<Transposed, Status> ordered(Transpose problem, const Tensor& index) {
  const Transposed t{empty_vector(problem.A.cols + 1, index.scalar_type(), index),
                     empty_vector(problem.A.nnz, index.scalar_type(), index),
                     empty_vector(problem.A.nnz, index.scalar_type(), index)};
  problem.crow = t.crow.mutable_data_ptr();
  problem.col = t.col.mutable_data_ptr();
  problem.perm = t.perm.mutable_data_ptr();
  return {t, Backend::run(problem, index)};
}

template <class Backend>
Transposed transposed(const Pattern& A) {
  MYOPS_CHECK(A.csr.wide || A.csr.rows <= std::numeric_limits<int32_t>::max(), A.crow_name, " counts ", A.csr.rows,
              " rows, more than int32 indices can number");
  Transpose problem;
  problem.A = A.csr;
  const auto [t, status] = ordered<Backend>(problem, A.crow);
  A.check(status);
  return t;
}

template <class Backend>
std::tuple<Tensor, Tensor, Tensor> csr_transpose(const Tensor& crow, const Tensor& col, int64_t columns) {
  const Transposed t = transposed<Backend>(Pattern(crow, "crow", col, "col", columns));
  return {t.crow, t.col, t.perm};
}

// crow of the rows, and whether they were sorted and inside.
template <class Backend>
std::pair<Tensor, Status> compressed(const Tensor& row, int64_t rows) {
  check_vector(row, "row");
  check_index_dtype(row, "row");
  MYOPS_CHECK(rows >= 0, "rows must not be negative, but got ", rows);
  MYOPS_CHECK(rows < std::numeric_limits<int64_t>::max(), "rows must be less than 2^63 - 1");
  const bool wide = row.scalar_type() == ScalarType::Long;
  MYOPS_CHECK(wide || row.size(0) <= std::numeric_limits<int32_t>::max(), "row has ", row.size(0),
              " entries, more than int32 indices can count");
  const Tensor from = as_contiguous(row);
  const Tensor crow = empty_vector(rows + 1, row.scalar_type(), row);
  CompressRows problem;
  problem.row = from.const_data_ptr();
  problem.nnz = row.size(0);
  problem.rows = rows;
  problem.wide = wide;
  problem.crow = crow.mutable_data_ptr();
  return {crow, Backend::run(problem, row)};
}

template <class Backend>
Tensor csr_rows(const Tensor& row, int64_t rows) {
  const auto [crow, status] = compressed<Backend>(row, rows);
  MYOPS_CHECK(status != Status::bad_crow, "row must be sorted; csr_transpose sorts");
  MYOPS_CHECK(status != Status::bad_col, "row holds an index outside [0, ", rows, ")");
  return crow;
}

}  // namespace myops
