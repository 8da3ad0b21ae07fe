// Packed weights: B as the panels that the micro-kernel reads, kept by the caller between products.
//
// Not here: packing itself, which is the drivers' (driver.h: pack_weight).
//
//   header     64 bytes that say all of this (PanelFormat), so that panels can be unpacked anywhere
//   block      kc rows of B at a time; in each, all panels one after the other
//   panel      [steps][width][group] elements as in pack.h: width columns (whole vectors, the last one padded), `group`
//              neighbours along k side by side, steps padded to a multiple of `depth`; with `shift`, bytes are kept
//              the other kind of byte (kByteShift of microkernel.h)
//
// The format depends on dtype, N, K and the ISA, never on M: one packed weight serves every number of rows. It fixes
// the order of the sums with it, so a product with panels has the bits of the batch-invariant product.
#pragma once
#include <cstdint>

#include "plan.h"

namespace myops::cpu {

struct PanelFormat {
  static constexpr uint64_t kMagic = 0x3230576b70706f79;
  uint64_t magic = kMagic;
  int64_t n = 0, k = 0;  // columns and rows of B
  int32_t kc = 1;
  int16_t dtype = 0, bytes = 0;  // of an element (its real or imaginary part), as it lies in the panels
  int16_t lanes = 0, vectors = 0, group = 1, depth = 1, shift = 0;
  int16_t unused[11] = {};

  int64_t parts() const { return is_complex(static_cast<DType>(dtype)) ? 2 : 1; }  // real columns of a column
  int64_t total_vectors() const { return ceil_div(n * parts(), lanes); }
  int64_t panels() const { return ceil_div(total_vectors(), vectors); }
  int64_t steps(int64_t rows) const { return ceil_div(rows, group * depth) * depth; }
  int64_t step_bytes() const { return static_cast<int64_t>(lanes) * group * bytes; }  // of one vector
  int64_t block_bytes(int64_t rows) const { return total_vectors() * steps(rows) * step_bytes(); }
  // With the header, in bytes; of an expanded weight they may be more than an int64 counts.
  int64_t size() const;
  bool has_size() const;
  // Whether the fields, read from memory, are a format's, and of one that takes `held` bytes with the header.
  bool describes(int64_t held) const;
};
static_assert(sizeof(PanelFormat) == 64, "panels behind the header stay aligned");

PanelFormat panel_format(DType in, int64_t n, int64_t k, const IsaTraits& isa);

// The weight (N x K, row-major) that lies in `panels`, which begin with their header.
void unpack_weight(const void* panels, void* weight);

}  // namespace myops::cpu
