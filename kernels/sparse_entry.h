// What the sparse operators share: a CSR pattern out of its tensors, dense operands by rows, and the engines' findings
// as errors. Backend is Cpu or Cuda: `static Status run(const Problem&, const Tensor& like)` for each problem of
// sparse_view.h that it has a kernel for.
#pragma once
#include "sparse_view.h"
#include "torch_bridge.h"

namespace myops {

inline void check_vector(const Tensor& t, const char* name) {
  MYOPS_CHECK(t.dim() == 1, name, " must be a vector, got ", t.dim(), "-D tensor");
}

inline void check_index_dtype(const Tensor& t, const char* name) {
  MYOPS_CHECK(t.scalar_type() == ScalarType::Int || t.scalar_type() == ScalarType::Long, name,
              " must have dtype int32 or int64, but got ", dtype_name(t.scalar_type()));
}

inline void check_same_dtype(const Tensor& t, const char* name, const Tensor& like, const char* like_name) {
  MYOPS_CHECK(t.scalar_type() == like.scalar_type(), like_name, " and ", name, " must have the same dtype, but got ",
              dtype_name(like.scalar_type()), " and ", dtype_name(t.scalar_type()));
}

// The tensor itself where it is contiguous: asking aten, which would return it too, takes 0.7 us.
inline Tensor as_contiguous(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

// A pattern whose arrays it keeps alive: contiguous, checked but for what they hold.
struct Pattern {
  Tensor crow, col;
  const char *crow_name, *col_name;
  Csr csr;

  Pattern(const Tensor& crow_, const char* crow_name_, const Tensor& col_, const char* col_name_, int64_t cols)
      : crow(crow_), col(col_), crow_name(crow_name_), col_name(col_name_) {
    check_vector(crow, crow_name);
    check_vector(col, col_name);
    check_index_dtype(crow, crow_name);
    check_same_dtype(col, col_name, crow, crow_name);
    check_same_device(col, col_name, crow, crow_name);
    MYOPS_CHECK(crow.size(0) >= 1, crow_name, " must hold at least one element, the 0 that it starts with");
    MYOPS_CHECK(cols >= 0, "columns must not be negative, but got ", cols);
    MYOPS_CHECK(cols < std::numeric_limits<int64_t>::max(), "columns must be less than 2^63 - 1");
    csr.rows = crow.size(0) - 1;
    csr.cols = cols;
    csr.nnz = col.size(0);
    csr.wide = crow.scalar_type() == ScalarType::Long;
    MYOPS_CHECK(csr.wide || csr.nnz <= std::numeric_limits<int32_t>::max(), col_name, " has ", csr.nnz,
                " entries, more than int32 indices can count");
    crow = as_contiguous(crow);
    col = as_contiguous(col);
    csr.crow = crow.const_data_ptr();
    csr.col = col.const_data_ptr();
  }

  void check(Status status) const {
    MYOPS_CHECK(status != Status::bad_crow, crow_name, " must start at 0, never decrease and end at ", csr.nnz,
                ", the number of entries");
    MYOPS_CHECK(status != Status::bad_col, col_name, " holds an index outside [0, ", csr.cols, ")");
  }

  // The values of the entries, contiguous.
  Tensor values(const Tensor& t, const char* op, const char* name) const {
    check_vector(t, name);
    check_same_device(t, name, crow, crow_name);
    MYOPS_CHECK(t.size(0) == csr.nnz, name, " must have one element for each of the ", csr.nnz, " entries of ",
                col_name, ", but got ", t.size(0));
    const DType type = dtype_of(t.scalar_type(), op, name);
    MYOPS_CHECK(type != DType::boolean, "myops.", op, " is not implemented for ", name, " of dtype bool");
    return as_contiguous(t);
  }
};

inline void check_matrix(const Tensor& t, const char* name, int64_t rows, const char* of) {
  check_matrix(t, name);
  MYOPS_CHECK(t.size(0) == rows, name, " must have ", rows, " rows, ", of, ", but got shape ",
              shape_text(t.sizes().data(), 2));
}

inline Tensor empty_vector(int64_t n, ScalarType type, const Tensor& like) { return empty(&n, 1, type, like); }

inline Tensor empty_matrix(int64_t m, int64_t n, ScalarType type, const Tensor& like) {
  const int64_t sizes[2] = {m, n};
  return empty(sizes, 2, type, like);
}

// Whether a backend has an engine for a problem.
template <class Backend, class Problem, class = void>
constexpr bool kRuns = false;
template <class Backend, class Problem>
constexpr bool
    kRuns<Backend, Problem,
          std::void_t<decltype(Backend::run(std::declval<const Problem&>(), std::declval<const Tensor&>()))>> = true;

// The tensor itself where it is contiguous; a column-major one is copied by the backend's own kernel, if it has one.
template <class Backend>
Tensor row_major(const Tensor& t) {
  if constexpr (kRuns<Backend, Turn>) {
    const int64_t rows = t.size(0), cols = t.size(1), bytes = element_size(dtype_of(t.scalar_type(), "spmm", "dense"));
    if (rows > 1 && cols > 1 && t.stride(0) == 1 && bytes <= 8) {
      const Tensor copy = empty_matrix(rows, cols, t.scalar_type(), t);
      Backend::run(Turn{t.const_data_ptr(), t.stride(1), rows, cols, bytes, copy.mutable_data_ptr()}, t);
      return copy;
    }
  }
  return as_contiguous(t);
}

// A dense operand by its rows, at any distance: the tensor itself, or a copy where its columns lie apart, unless that
// may stay so (`spread`).
template <class Backend>
struct RowMajor {
  Tensor held;
  const void* data;
  int64_t row, col;

  explicit RowMajor(const Tensor& t, bool spread = false)
      : held(t.stride(1) == 1 || t.size(1) <= 1 || spread ? t : row_major<Backend>(t)),
        data(held.const_data_ptr()),
        row(held.stride(0)),
        col(held.size(1) <= 1 ? 1 : held.stride(1)) {}
};

}  // namespace myops
