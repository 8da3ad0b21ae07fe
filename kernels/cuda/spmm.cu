// The CUDA kernels of ../spmm.h.
#include "../spmm.h"

#include "backend.h"

MYOPS_LIBRARY_IMPL(MYOPS_NAMESPACE, MYOPS_CUDA_KEY, m) { myops::register_spmm<myops::Cuda>(m); }
MYOPS_SPARSE_LIBRARY_IMPL_EXPANDED(MYOPS_NAMESPACE, SparseCsr, MYOPS_CUDA_KEY, m) {
  myops::register_native_mm<myops::Cuda>(m);
}
MYOPS_SPARSE_LIBRARY_IMPL_EXPANDED(MYOPS_NAMESPACE, Sparse, MYOPS_CUDA_KEY, m) {
  myops::register_native_mm<myops::Cuda>(m);
}
