// The entries of a CSR matrix ordered by column: a counting sort, O(nnz + rows + cols). And crow of entries that are in
// order already, and a batch as one block-diagonal matrix. See Transpose, CompressRows and Join in sparse_view.h.
#pragma once
#include "partition.h"

namespace myops::cpu {

Status transpose(const Transpose& problem, const Runtime& rt);
Status compress_rows(const CompressRows& problem, const Runtime& rt);
Status join(const Join& problem, const Runtime& rt);

}  // namespace myops::cpu
