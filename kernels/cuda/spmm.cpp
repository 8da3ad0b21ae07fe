// The CUDA kernels of ../spmm.h.
#include "../spmm.h"

#include "backend.h"

MYOPS_LIBRARY_IMPL(MYOPS_NAMESPACE, MYOPS_CUDA_KEY, m) { myops::register_spmm<myops::Cuda>(m); }
