// The CUDA kernels of ../spgemm.h.
#include "../spgemm.h"

#include "backend.h"

MYOPS_LIBRARY_IMPL(MYOPS_NAMESPACE, MYOPS_CUDA_KEY, m) { myops::register_spgemm<myops::Cuda>(m); }
