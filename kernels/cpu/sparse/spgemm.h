// C = A @ B with all three in CSR, and its gradients on the patterns of A and B. See Spgemm in sparse_view.h.
#pragma once
#include "partition.h"

namespace myops::cpu {

// Columns come out sorted, each once; an entry whose terms cancel stays.
Status spgemm(const Spgemm& problem, const SpgemmSink& sink, const Runtime& rt);
Status spgemm_backward(const SpgemmBackward& problem, const Runtime& rt);

}  // namespace myops::cpu
