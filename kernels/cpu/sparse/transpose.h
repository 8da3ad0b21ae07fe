// The entries of a CSR matrix ordered by column: a counting sort, O(nnz + rows + cols). And crow of entries that are in
// order already. See Transpose and CompressRows in sparse_view.h.
#pragma once
#include "partition.h"

namespace myops::cpu {

Status transpose(const Transpose& problem, const Runtime& rt);
Status compress_rows(const CompressRows& problem, const Runtime& rt);

}  // namespace myops::cpu
