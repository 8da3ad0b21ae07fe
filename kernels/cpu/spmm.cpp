// The CPU kernels of ../spmm.h.
#include "../spmm.h"

#include "backend.h"

MYOPS_LIBRARY_IMPL(MYOPS_NAMESPACE, CPU, m) { myops::register_spmm<myops::Cpu>(m); }
