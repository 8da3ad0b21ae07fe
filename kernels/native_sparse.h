// Products of native sparse tensors, for one call of Python's instead of four to ten: native_mm, native_extremum,
// native_bmm, native_sampled_addmm and native_spgemm take the tensors apart, multiply, and put sparse results together.
//
// Not here: gradients and autocast. The autograd kernels of these operators take the tensors apart in Python and call
// the operators on parts (myops/sparse.py).
#pragma once
#include <tuple>
#include <vector>

#include "spgemm.h"
#include "spmm.h"

namespace myops {

using torch::headeronly::Layout;

// ---- Native sparse tensors ------------------------------------------------------------------------------------------

inline void check_inner(const Tensor& a, const char* a_name, const Tensor& b, const char* b_name) {
  check_matrix(a, a_name);
  check_matrix(b, b_name);
  MYOPS_CHECK(a.size(1) == b.size(0), a_name, " and ", b_name, " shapes cannot be multiplied (", a.size(0), "x",
              a.size(1), " and ", b.size(0), "x", b.size(1), ")");
}

inline Layout layout_of(const Tensor& t) {
  int32_t layout;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_layout(t.get(), &layout));
  return torch::stable::detail::to<Layout>(torch::stable::detail::from(layout));
}

// The parts of a compressed tensor: those of CSR or BSR (by_row), or of the CSR or BSR tensor that is its transpose.
struct CompressedParts {
  bool by_row;
  Tensor outer, inner, values;
  const char *outer_name, *inner_name;

  CompressedParts(const Tensor& s, Layout layout)
      : by_row(layout == Layout::SparseCsr || layout == Layout::SparseBsr),
        outer(call_aten<Tensor>(by_row ? "aten::crow_indices" : "aten::ccol_indices", s)),
        inner(call_aten<Tensor>(by_row ? "aten::col_indices" : "aten::row_indices", s)),
        values(call_aten<Tensor>("aten::values", s)),
        outer_name(by_row ? "crow" : "ccol"),
        inner_name(by_row ? "col" : "row") {}

  Pattern pattern(int64_t cols) const { return Pattern(outer, outer_name, inner, inner_name, cols); }
};

// The parts of a COO tensor without dense dimensions.
struct CooParts {
  Tensor indices, values;
  bool coalesced;

  CooParts(const Tensor& s, const char* name)
      : indices(call_aten<Tensor>("aten::_indices", s)),
        values(call_aten<Tensor>("aten::_values", s)),
        coalesced(call_aten<bool>("aten::is_coalesced", s)) {
    MYOPS_CHECK(indices.size(0) == s.dim(), name, " must have scalar entries");
  }

  Tensor index(int64_t dim) const { return torch::stable::select(indices, 0, dim); }
};

inline Tensor compressed_tensor(Layout layout, const Tensor& outer, const Tensor& inner, const Tensor& values,
                                int64_t rows, int64_t cols) {
  return call_aten<Tensor>("aten::_sparse_compressed_tensor_unsafe", outer, inner, values,
                           std::vector<int64_t>{rows, cols}, std::optional(values.scalar_type()), std::optional(layout),
                           std::optional(values.device()), std::optional<bool>());
}

inline Tensor coalesced_tensor(const Tensor& indices, const Tensor& values, int64_t rows, int64_t cols) {
  return call_aten<Tensor>("aten::_sparse_coo_tensor_unsafe", indices, values, std::vector<int64_t>{rows, cols},
                           std::optional(values.scalar_type()), std::optional(Layout::Sparse),
                           std::optional(values.device()), std::optional<bool>(), std::optional(true));
}

// ---- native_mm ------------------------------------------------------------------------------------------------------

// A matrix of blocks, m x k, whose parts are given, or with `crossed` those of its transpose. values: the blocks of the
// matrix, or with `turned` their transposes.
template <class Backend>
Tensor multiply_blocks(const Pattern& A, const Tensor& values, bool crossed, bool turned, int64_t m, int64_t k,
                       const char* name, const Operands& with) {
  BlockSpmm blocks;
  blocks.height = values.size(turned ? 2 : 1);
  blocks.width = values.size(turned ? 1 : 2);
  blocks.block_step = values.stride(0);
  blocks.row_step = values.stride(turned ? 2 : 1);
  blocks.col_step = values.stride(turned ? 1 : 2);
  const int64_t rows = crossed ? A.csr.cols : A.csr.rows, cols = crossed ? A.csr.rows : A.csr.cols;
  MYOPS_CHECK(rows * blocks.height == m && cols * blocks.width == k && values.size(0) == A.csr.nnz, name,
              " must consist of whole blocks, one for each entry of ", A.col_name);
  MYOPS_CHECK(values.scalar_type() != ScalarType::Bool, "myops.spmm is not implemented for values of dtype bool");
  const auto multiply = [&](Spmm& p) {
    const ByColumn rows_of_blocks = pattern_of<Backend>(A, crossed);
    blocks.spmm = p;
    set_pattern(blocks.spmm, rows_of_blocks);
    rows_of_blocks.pattern.check(Backend::run(blocks, values));
  };
  return times_dense<Backend>(m, k, false, multiply, values, with);
}

// What was found about the places of entries of a rows x cols matrix.
inline void check_places(Status status, int64_t rows, int64_t cols) {
  MYOPS_CHECK(status != Status::bad_crow, "row holds an index outside [0, ", rows, ")");
  MYOPS_CHECK(status != Status::bad_col, "col holds an index outside [0, ", cols, ")");
}

// Rows for each entry, from which on entries are added one by one.
constexpr int64_t kRowsToScatter = 8;

// Entries in any order, far fewer than rows.
template <class Backend>
Tensor scatter_entries(const Tensor& row, const Tensor& col, const Tensor& values, int64_t m, int64_t k,
                       const Operands& with) {
  const Tensor rows = as_contiguous(row), cols = as_contiguous(col), v = as_contiguous(values);
  const auto multiply = [&](Spmm& p) {
    p.A = {m, k, col.size(0), nullptr, cols.const_data_ptr(), col.scalar_type() == ScalarType::Long};
    p.values = v.const_data_ptr();
    check_places(Backend::run(ScatterSpmm{p, rows.const_data_ptr()}, values), m, k);
  };
  return times_dense<Backend>(m, k, true, multiply, values, with);
}

// Entries of an m x k matrix in any order, or sorted by row.
template <class Backend>
Tensor multiply_coo(const Tensor& row, const Tensor& col, const Tensor& values, bool sorted, int64_t m, int64_t k,
                    const Operands& with) {
  if constexpr (kRuns<Backend, ScatterSpmm>) {
    const DType type = dtype_of(values.scalar_type(), "spmm", "values");
    const bool exact = is_integral(type) || element_size(type) > 2;
    if (exact && type != DType::boolean && !with.mean && std::isfinite(with.alpha) &&
        values.size(0) <= m / kRowsToScatter)
      return scatter_entries<Backend>(row, col, values, m, k, with);
  }
  const auto in_order = [&](const Tensor& crow) {
    return multiply_pattern<Backend>(Pattern(crow, "crow", col, "col", k), values, false, {}, {}, {}, with);
  };
  if (sorted) return in_order(csr_rows<Backend>(row, m));
  if constexpr (Backend::kReports)  // the transpose of the transpose of a coalesced one
    if (const auto [crow, status] = compressed<Backend>(row, m); status == Status::ok) return in_order(crow);
  const ByColumn by_row = sorted_by_row<Backend>(row, col, m, k);
  return multiply_entries<Backend>(m, k, by_row.pattern.values(values, "spmm", "values"), [&] { return by_row; }, with);
}

// A native sparse matrix S, or its transpose, times a strided one.
template <class Backend>
Tensor multiply_native(const Tensor& s, const char* name, Layout layout, bool transpose, const Operands& with) {
  const int64_t m = s.size(transpose ? 1 : 0), k = s.size(transpose ? 0 : 1);
  if (layout == Layout::Sparse) {
    const CooParts coo(s, name);
    MYOPS_CHECK(!with.mean || coo.coalesced, name, " must be coalesced where mean is True");
    return multiply_coo<Backend>(coo.index(transpose ? 1 : 0), coo.index(transpose ? 0 : 1), coo.values,
                                 !transpose && coo.coalesced, m, k, with);
  }
  constexpr bool kBlocks = kRuns<Backend, BlockSpmm>;
  const bool blocked = kBlocks && (layout == Layout::SparseBsr || layout == Layout::SparseBsc);
  MYOPS_CHECK(blocked || layout == Layout::SparseCsr || layout == Layout::SparseCsc, name,
              " must be a CSR, CSC or COO tensor, or (on the CPU) a BSR or BSC tensor");
  const CompressedParts parts(s, layout);
  const bool crossed = transpose == parts.by_row;  // whether the parts are those of the transpose of what is multiplied
  if constexpr (kBlocks)
    if (blocked) {
      MYOPS_CHECK(!with.mean, "mean must be False for blocks");
      MYOPS_CHECK(parts.values.dim() == 3 && parts.values.size(1) > 0 && parts.values.size(2) > 0, name,
                  " must consist of blocks of numbers");
      const Pattern A = parts.pattern(s.size(parts.by_row ? 1 : 0) / parts.values.size(parts.by_row ? 2 : 1));
      return multiply_blocks<Backend>(A, parts.values, crossed, transpose, m, k, name, with);
    }
  return multiply_pattern<Backend>(parts.pattern(crossed ? m : k), parts.values, crossed, {}, {}, {}, with);
}

// alpha * a @ b + beta * input of which a or b is a native sparse tensor: CSR, CSC and COO, on the CPU also BSR and
// BSC. The result is row-major, of a COO b column-major, as torch has it.
template <class Backend>
Tensor native_mm(const Tensor& a, const Tensor& b, const MaybeTensor& input, bool mean, double beta, double alpha) {
  check_inner(a, "a", b, "b");
  check_same_dtype(b, "b", a, "a");
  check_same_device(b, "b", a, "a");
  const Layout a_layout = layout_of(a), b_layout = layout_of(b);
  const bool turned = a_layout == Layout::Strided;  // D.T = b.T @ a.T
  MYOPS_CHECK(turned || b_layout == Layout::Strided, "b must be strided where a is sparse");
  if (!turned) return multiply_native<Backend>(a, "a", a_layout, false, {b, input, mean, beta, alpha});
  MYOPS_CHECK(!mean, "mean must be False where a is strided");
  const Tensor flipped = torch::stable::transpose(a, 0, 1);
  const Tensor d = torch::stable::transpose(
      multiply_native<Backend>(b, "b", b_layout, true, {flipped, input, false, beta, alpha, true}), 0, 1);
  return b_layout == Layout::Sparse ? d : row_major<Backend>(d);
}

// The largest (smallest) products of the rows of a CSR or coalesced COO matrix with the columns of a strided one.
template <class Backend>
Tensor native_extremum(const Tensor& a, const Tensor& b, bool minimum) {
  check_inner(a, "a", b, "b");
  MYOPS_CHECK(layout_of(b) == Layout::Strided, "b must be strided");
  const Layout layout = layout_of(a);
  if (layout == Layout::Sparse) {
    const CooParts coo(a, "a");
    MYOPS_CHECK(coo.coalesced, "a must be coalesced");
    const Tensor crow = csr_rows<Backend>(coo.index(0), a.size(0));
    return std::get<0>(spmm_extremum<Backend>(crow, coo.index(1), coo.values, b, minimum, false));
  }
  MYOPS_CHECK(layout == Layout::SparseCsr, "a must be CSR or COO");
  const CompressedParts parts(a, layout);
  return std::get<0>(spmm_extremum<Backend>(parts.outer, parts.inner, parts.values, b, minimum, false));
}

// ---- native_bmm -----------------------------------------------------------------------------------------------------

// a[i] @ b[i] of a COO tensor and a strided one: the block-diagonal matrix of the batch times the stacked matrices.
template <class Backend>
Tensor native_bmm(const Tensor& a, const Tensor& b) {
  MYOPS_CHECK(a.dim() == 3 && b.dim() == 3, "a and b must be 3-D, got ", a.dim(), "-D and ", b.dim(), "-D");
  const int64_t batch = a.size(0), m = a.size(1), k = a.size(2), n = b.size(2);
  MYOPS_CHECK(b.size(0) == batch && b.size(1) == k, "b must have shape [", batch, ", ", k, ", N], but got ",
              shape_text(b.sizes().data(), 3));
  check_same_dtype(b, "b", a, "a");
  check_same_device(b, "b", a, "a");
  MYOPS_CHECK(layout_of(a) == Layout::Sparse && layout_of(b) == Layout::Strided, "a must be COO and b strided");
  const CooParts coo(a, "a");
  const int64_t nnz = coo.values.size(0);
  const Tensor indices = as_contiguous(coo.indices);
  const Tensor row = empty_vector(nnz, ScalarType::Long, a), col = empty_vector(nnz, ScalarType::Long, a);
  const int64_t* const of = static_cast<const int64_t*>(indices.const_data_ptr());
  int64_t* const to_row = static_cast<int64_t*>(row.mutable_data_ptr());
  int64_t* const to_col = static_cast<int64_t*>(col.mutable_data_ptr());
  check_places(Backend::run(Join{of, of + nnz, of + 2 * nnz, nnz, batch, m, k, to_row, to_col}, a), m, k);
  const Tensor stacked = torch::stable::reshape(b, {batch * k, n});
  const Tensor d = multiply_coo<Backend>(row, col, coo.values, coo.coalesced, batch * m, batch * k,
                                         {stacked, std::nullopt, false, 1, 1});
  return torch::stable::view(d, {batch, m, n});
}

// ---- Sparse results -------------------------------------------------------------------------------------------------

// alpha * (mat1 @ mat2) at the entries of `input`, CSR, CSC or coalesced COO, plus beta * input.
template <class Backend>
Tensor native_sampled_addmm(const Tensor& input, const Tensor& mat1, const Tensor& mat2, double beta, double alpha) {
  check_matrix(input, "input");
  check_inner(mat1, "mat1", mat2, "mat2");
  const int64_t m = input.size(0), n = input.size(1);
  MYOPS_CHECK(mat1.size(0) == m && mat2.size(1) == n, "input must have the shape of mat1 @ mat2, [", mat1.size(0), ", ",
              mat2.size(1), "], but got [", m, ", ", n, "]");
  check_same_dtype(input, "input", mat1, "mat1");
  check_same_dtype(mat2, "mat2", mat1, "mat1");
  check_same_device(input, "input", mat1, "mat1");
  MYOPS_CHECK(layout_of(mat1) == Layout::Strided && layout_of(mat2) == Layout::Strided,
              "mat1 and mat2 must be strided");
  const Layout layout = layout_of(input);
  const Tensor turned = torch::stable::transpose(mat2, 0, 1);
  if (layout == Layout::Sparse) {
    const CooParts coo(input, "input");
    MYOPS_CHECK(coo.coalesced, "input must be coalesced: call input.coalesce() first");
    const Pattern A(csr_rows<Backend>(coo.index(0), m), "crow", coo.index(1), "col", n);
    return coalesced_tensor(coo.indices, sampled<Backend>(A, mat1, turned, coo.values, beta, alpha), m, n);
  }
  MYOPS_CHECK(layout == Layout::SparseCsr || layout == Layout::SparseCsc, "input must be COO, CSR or CSC");
  const CompressedParts parts(input, layout);
  const Tensor values = parts.by_row ? sampled<Backend>(parts.pattern(n), mat1, turned, parts.values, beta, alpha)
                                     : sampled<Backend>(parts.pattern(m), turned, mat1, parts.values, beta, alpha);
  return compressed_tensor(layout, parts.outer, parts.inner, values, m, n);
}

// A CSR matrix of the entries of a COO tensor, which may repeat.
struct RowParts {
  Tensor crow, col, values;
};

template <class Backend>
RowParts by_rows(const CooParts& coo, int64_t rows, int64_t cols) {
  const Tensor row = coo.index(0), col = coo.index(1);
  if (coo.coalesced) return {csr_rows<Backend>(row, rows), col, coo.values};
  if constexpr (Backend::kReports)
    if (const auto [crow, status] = compressed<Backend>(row, rows); status == Status::ok)
      return {crow, col, coo.values};
  const ByColumn sorted = sorted_by_row<Backend>(row, col, rows, cols);
  return {sorted.pattern.crow, sorted.pattern.col,
          call_aten<Tensor>("aten::index_select", coo.values, int64_t{0}, *sorted.perm)};
}

// a @ b of two CSR or two COO matrices: one of the same layout, coalesced.
template <class Backend>
Tensor native_spgemm(const Tensor& a, const Tensor& b) {
  check_inner(a, "a", b, "b");
  const int64_t m = a.size(0), k = a.size(1), n = b.size(1);
  check_same_device(b, "b", a, "a");
  const Layout layout = layout_of(a);
  MYOPS_CHECK(layout == layout_of(b), "a and b must have one layout");
  if (layout == Layout::Sparse) {
    const CooParts x(a, "a"), y(b, "b");
    const RowParts p = by_rows<Backend>(x, m, k), q = by_rows<Backend>(y, k, n);
    const auto [crow, indices, values] = spgemm<Backend>(p.crow, p.col, p.values, q.crow, q.col, q.values, n, true);
    return coalesced_tensor(indices, values, m, n);
  }
  MYOPS_CHECK(layout == Layout::SparseCsr, "a and b must be CSR or COO");
  const CompressedParts x(a, layout), y(b, layout);
  const auto [crow, col, values] = spgemm<Backend>(x.outer, x.inner, x.values, y.outer, y.inner, y.values, n, false);
  return compressed_tensor(layout, crow, col, values, m, n);
}

// ---- Registration ---------------------------------------------------------------------------------------------------

// At the keys that a sparse tensor among the arguments leads to.
template <class Backend>
void register_native_sparse(torch::stable::detail::StableLibrary& m) {
  m.impl("native_mm", TORCH_BOX(&native_mm<Backend>));
  m.impl("native_extremum", TORCH_BOX(&native_extremum<Backend>));
  if constexpr (kRuns<Backend, Join>) m.impl("native_bmm", TORCH_BOX(&native_bmm<Backend>));
  m.impl("native_sampled_addmm", TORCH_BOX(&native_sampled_addmm<Backend>));
  m.impl("native_spgemm", TORCH_BOX(&native_spgemm<Backend>));
}

}  // namespace myops
