// What every CPU of the architecture has: 16-byte vectors (SSE2, VSX), 16 registers, no masks, no 16-bit float
// conversion.
#include "engine.h"
#include "portable.h"

namespace myops::cpu {
namespace {

struct Baseline : Portable<16> {
  using Base = Baseline;
  static constexpr bool kMaskedLoads = false, kBf16Dot = false, kInt8Dot = false;
  static constexpr int kPanelVectors = 2, kDotRows = 2;
};

}  // namespace

const Engine kBaseline = make_engine<Baseline, Level::baseline>();

}  // namespace myops::cpu
