// The CUDA kernels of ../matmul.h.
#include "../matmul.h"

#include "backend.h"

MYOPS_LIBRARY_IMPL(MYOPS_NAMESPACE, MYOPS_CUDA_KEY, m) { myops::register_matmul<myops::Cuda>(m); }
