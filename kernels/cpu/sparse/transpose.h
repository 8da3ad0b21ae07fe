// The entries of a CSR matrix ordered by column: a counting sort, O(nnz + rows + cols). See Transpose in sparse_view.h.
#pragma once
#include "partition.h"

namespace myops::cpu {

Status transpose(const Transpose& problem, const Runtime& rt);

}  // namespace myops::cpu
