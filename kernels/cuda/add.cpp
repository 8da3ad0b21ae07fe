// The CUDA kernels of ../add.h.
#include "../add.h"

#include "backend.h"

MYOPS_LIBRARY_IMPL(MYOPS_NAMESPACE, MYOPS_CUDA_KEY, m) { myops::register_add<myops::Cuda>(m); }
