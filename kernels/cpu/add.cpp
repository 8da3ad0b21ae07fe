// The CPU kernels of ../add.h.
#include "../add.h"

#include "backend.h"

MYOPS_LIBRARY_IMPL(MYOPS_NAMESPACE, CPU, m) { myops::register_add<myops::Cpu>(m); }
