// A matrix of far more rows than entries, given by its entries in any order, times a dense one. See ScatterSpmm in
// sparse_view.h.
#pragma once
#include "partition.h"

namespace myops::cpu {

Status scatter(const ScatterSpmm& problem, const Runtime& rt);

}  // namespace myops::cpu
