// The format of packed weights, and the way back, for panels of any ISA on any machine.
#include "panels.h"

#include <cstring>

namespace myops::cpu {

PanelFormat panel_format(DType in, int64_t n, int64_t k, const IsaTraits& isa) {
  const Arithmetic sums = arithmetic(in, k, isa);
  const bool unit = sums.compute == Compute::matrix_unit;
  PanelFormat f;
  f.n = n, f.k = k;
  f.kc = static_cast<int32_t>(max64(1, min64(sums.chain, k)));
  f.dtype = static_cast<int16_t>(in);
  f.lanes = static_cast<int16_t>(isa.vector_bytes / compute_bytes(sums.compute));
  f.vectors = static_cast<int16_t>(unit ? kUnitVectors : isa.panel_vectors);
  f.group = static_cast<int16_t>(group_of(sums.compute, in));
  f.depth = unit ? kUnitDepth : 1;
  f.shift = sums.compute == Compute::byte_dot;
  f.bytes = static_cast<int16_t>(element_size(in) / f.parts());  // what is multiplied as another type, the loads widen
  return f;
}

int64_t PanelFormat::size() const {
  const int64_t rest = k % kc;
  return sizeof(PanelFormat) + k / kc * block_bytes(kc) + (rest > 0 || k == 0 ? block_bytes(rest) : 0);
}

bool PanelFormat::has_size() const {
  const double padded_columns = static_cast<double>(n) * parts() + lanes;
  const double padded_rows = (static_cast<double>(k) / kc + 1) * (kc + 1.0 * group * depth);
  return padded_columns * padded_rows * bytes < 0x1p62;
}

bool PanelFormat::describes(int64_t held) const {
  if (magic != kMagic || dtype < 0 || dtype >= static_cast<int16_t>(DType::boolean)) return false;
  if (n < 0 || k < 0 || kc < 1 || lanes < 1 || vectors < 1 || group < 1 || depth < 1) return false;
  if (bytes != element_size(static_cast<DType>(dtype)) / parts() || shift < 0 || shift > (bytes == 1)) return false;
  return has_size() && size() == held;
}

namespace {

// S: as large as a real part of an element.
template <class S>
void unpack(const PanelFormat& f, const char* panels, S* weight) {
  const int64_t parts = f.parts(), columns = f.n * parts, row = f.k * parts;
  const Split split(f.total_vectors(), f.panels());
  for (int64_t k0 = 0; k0 < f.k; k0 += f.kc) {
    const int64_t rows = min64(f.kc, f.k - k0);
    for (int64_t panel = 0; panel < f.panels(); ++panel) {
      const int64_t first = split.begin(panel) * f.lanes, width = split.begin(panel + 1) * f.lanes - first;
      const char* from = panels + split.begin(panel) * f.steps(rows) * f.step_bytes();
      for (int64_t j = 0; j < width && first + j < columns; ++j)
        for (int64_t p = 0; p < rows; ++p) {
          S value;
          std::memcpy(&value, from + (((p / f.group) * width + j) * f.group + p % f.group) * f.bytes, sizeof(S));
          if (f.shift) value ^= 0x80;
          weight[(first + j) / parts * row + (k0 + p) * parts + (first + j) % parts] = value;
        }
    }
    panels += f.block_bytes(rows);
  }
}

}  // namespace

void unpack_weight(const void* panels, void* weight) {
  PanelFormat f;
  std::memcpy(&f, panels, sizeof(f));
  if (f.n == 0) return;
  const char* from = static_cast<const char*>(panels) + sizeof(f);
  switch (f.bytes) {
    case 8: return unpack(f, from, static_cast<uint64_t*>(weight));
    case 4: return unpack(f, from, static_cast<uint32_t*>(weight));
    case 2: return unpack(f, from, static_cast<uint16_t*>(weight));
    default: return unpack(f, from, static_cast<uint8_t*>(weight));
  }
}

}  // namespace myops::cpu
