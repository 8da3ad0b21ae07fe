// The CUDA kernels of ../bmm.h.
#include "../bmm.h"

#include "backend.h"

MYOPS_LIBRARY_IMPL(MYOPS_NAMESPACE, MYOPS_CUDA_KEY, m) { myops::register_bmm<myops::Cuda>(m); }
