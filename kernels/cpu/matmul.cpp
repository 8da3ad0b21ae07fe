// The CPU kernels of ../matmul.h.
#include "../matmul.h"

#include "backend.h"

MYOPS_LIBRARY_IMPL(MYOPS_NAMESPACE, CPU, m) { myops::register_matmul<myops::Cpu>(m); }
