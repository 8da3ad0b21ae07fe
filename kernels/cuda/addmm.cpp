// The CUDA kernels of ../addmm.h.
#include "../addmm.h"

#include "backend.h"

MYOPS_LIBRARY_IMPL(MYOPS_NAMESPACE, MYOPS_CUDA_KEY, m) { myops::register_addmm<myops::Cuda>(m); }
