// Hands a product of a sparse and a dense matrix, or a sampled one, to the unit of its dtype.
#include "sparse.h"

namespace myops {
namespace {

template <class Problem>
using Launch = cudaError_t (*)(const Problem&, const SparseSession&);

template <class Problem>
Launch<Problem> family(DType type, Launch<Problem> small_float, Launch<Problem> wide, Launch<Problem> integer) {
  if (is_integral(type)) return integer;
  return type == DType::f64 || is_complex(type) ? wide : small_float;
}

}  // namespace

cudaError_t launch_spmm(const Spmm& p, const SparseSession& session) {
  return family<Spmm>(p.type, launch_spmm_float, launch_spmm_wide, launch_spmm_integer)(p, session);
}

cudaError_t launch_sddmm(const Sddmm& p, const SparseSession& session) {
  return family<Sddmm>(p.type, launch_sddmm_float, launch_sddmm_wide, launch_sddmm_integer)(p, session);
}

}  // namespace myops
