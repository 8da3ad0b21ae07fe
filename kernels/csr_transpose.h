// csr_transpose: the entries of a CSR pattern ordered by column, and where each of them was. csr_rows: crow of entries
// that are sorted by row, as those of a coalesced COO tensor are.
#pragma once
#include <tuple>

#include "sparse_entry.h"

namespace myops {

struct Transposed {
  Tensor crow, col, perm;
};

template <class Backend>
Transposed transposed(const Pattern& A) {
  const ScalarType index = A.crow.scalar_type();
  Transposed t{empty_vector(A.csr.cols + 1, index, A.crow), empty_vector(A.csr.nnz, index, A.crow),
               empty_vector(A.csr.nnz, index, A.crow)};
  MYOPS_CHECK(A.csr.wide || A.csr.rows <= std::numeric_limits<int32_t>::max(), A.crow_name, " counts ", A.csr.rows,
              " rows, more than int32 indices can number");
  Transpose problem;
  problem.A = A.csr;
  problem.crow = t.crow.mutable_data_ptr();
  problem.col = t.col.mutable_data_ptr();
  problem.perm = t.perm.mutable_data_ptr();
  A.check(Backend::run(problem, A.crow));
  return t;
}

template <class Backend>
std::tuple<Tensor, Tensor, Tensor> csr_transpose(const Tensor& crow, const Tensor& col, int64_t columns) {
  const Transposed t = transposed<Backend>(Pattern(crow, "crow", col, "col", columns));
  return {t.crow, t.col, t.perm};
}

template <class Backend>
Tensor csr_rows(const Tensor& row, int64_t rows) {
  check_vector(row, "row");
  check_index_dtype(row, "row");
  MYOPS_CHECK(rows >= 0, "rows must not be negative, but got ", rows);
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
  const Status status = Backend::run(problem, row);
  MYOPS_CHECK(status != Status::bad_crow, "row must be sorted; csr_transpose sorts");
  MYOPS_CHECK(status != Status::bad_col, "row holds an index outside [0, ", rows, ")");
  return crow;
}

}  // namespace myops
