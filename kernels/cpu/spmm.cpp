// The CPU kernels of ../spmm.h.
#include "../spmm.h"

#include "backend.h"

MYOPS_LIBRARY_IMPL(MYOPS_NAMESPACE, CPU, m) { myops::register_spmm<myops::Cpu>(m); }
MYOPS_SPARSE_LIBRARY_IMPL_EXPANDED(MYOPS_NAMESPACE, SparseCsr, CPU, m) { myops::register_native_mm<myops::Cpu>(m); }
MYOPS_SPARSE_LIBRARY_IMPL_EXPANDED(MYOPS_NAMESPACE, Sparse, CPU, m) { myops::register_native_mm<myops::Cpu>(m); }
