// The CPU kernels of ../linear.h.
#include "../linear.h"

#include "backend.h"

MYOPS_LIBRARY_IMPL(MYOPS_NAMESPACE, CPU, m) { myops::register_linear<myops::Cpu>(m); }
