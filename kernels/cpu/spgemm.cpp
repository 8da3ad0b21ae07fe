// The CPU kernels of ../spgemm.h.
#include "../spgemm.h"

#include "backend.h"

MYOPS_LIBRARY_IMPL(MYOPS_NAMESPACE, CPU, m) { myops::register_spgemm<myops::Cpu>(m); }
