// The CUDA kernels of ../linear.h.
#include "../linear.h"

#include "backend.h"

MYOPS_LIBRARY_IMPL(MYOPS_NAMESPACE, MYOPS_CUDA_KEY, m) { myops::register_linear<myops::Cuda>(m); }
