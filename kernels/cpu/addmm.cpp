// The CPU kernels of ../addmm.h.
#include "../addmm.h"

#include "backend.h"

MYOPS_LIBRARY_IMPL(MYOPS_NAMESPACE, CPU, m) { myops::register_addmm<myops::Cpu>(m); }
