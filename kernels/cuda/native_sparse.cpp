// The CUDA kernels of ../native_sparse.h.
#include "../native_sparse.h"

#include "backend.h"

MYOPS_SPARSE_LIBRARY_IMPL_EXPANDED(MYOPS_NAMESPACE, SparseCsr, MYOPS_CUDA_KEY, m) {
  myops::register_native_sparse<myops::Cuda>(m);
}
MYOPS_SPARSE_LIBRARY_IMPL_EXPANDED(MYOPS_NAMESPACE, Sparse, MYOPS_CUDA_KEY, m) {
  myops::register_native_sparse<myops::Cuda>(m);
}
