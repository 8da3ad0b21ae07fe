// The CPU kernels of ../native_sparse.h.
#include "../native_sparse.h"

#include "backend.h"

MYOPS_SPARSE_LIBRARY_IMPL_EXPANDED(MYOPS_NAMESPACE, SparseCsr, CPU, m) { myops::register_native_sparse<myops::Cpu>(m); }
MYOPS_SPARSE_LIBRARY_IMPL_EXPANDED(MYOPS_NAMESPACE, Sparse, CPU, m) { myops::register_native_sparse<myops::Cpu>(m); }
