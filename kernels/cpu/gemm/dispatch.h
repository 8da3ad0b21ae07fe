// Which ISA level runs: the best the CPU has, or the one that MYOPS_ISA names. Decided once, at the first call.
#pragma once
#include <vector>

#include "isa/engine.h"

namespace myops::cpu {

std::vector<const Engine*> available_engines();  // best first; what this CPU and this build have
const Engine& engine();                          // throws where MYOPS_ISA names a level that is not available
int long_columns();                              // Runtime::long_columns of this CPU

}  // namespace myops::cpu
