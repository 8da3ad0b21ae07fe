// The CPU kernels of ../bmm.h.
#include "../bmm.h"

#include "backend.h"

MYOPS_LIBRARY_IMPL(MYOPS_NAMESPACE, CPU, m) { myops::register_bmm<myops::Cpu>(m); }
