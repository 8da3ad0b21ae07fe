// The rows of a piece in the order in which their sums are formed: short ones by length, then the others as they come.
//
// In the order of the matrix, the loop over every short row ends in a mispredicted branch, 20 cycles, which is what
// five entries take. By length, the branch is foreseen and neighbours can be summed side by side. The sort is two
// cycles a row. A row is summed the same way whatever lies beside it.
#pragma once
#include "partition.h"

namespace myops::cpu {

constexpr int kShort = 16;  // entries; above, rows of different lengths would wait for the longest of them
constexpr int kBeside = 4;  // rows at most that are summed side by side

// A template, so that no wide instruction leaks into other levels (../gemm/isa/engine.h).
template <class Isa>
struct RowOrder {
  static constexpr int kGap = 2 * kBeside;
  uint16_t begin[kPiece + 1];     // where each row begins among the entries of the piece
  uint16_t order[kPiece + kGap];  // rows as the piece counts them: short ones, the last one again kGap times, long ones
  int64_t rows, short_rows, empty_rows;  // the empty ones are the first of the short ones

  int64_t length(int64_t row) const { return begin[row + 1] - begin[row]; }
  const uint16_t* long_ones() const { return order + short_rows + kGap; }

  void sort(const Csr& A, const Piece& piece) {
    rows = piece.row_end - piece.row;
    if (A.wide)
      sort_by(static_cast<const int64_t*>(A.crow) + piece.row);
    else
      sort_by(static_cast<const int32_t*>(A.crow) + piece.row);
    for (int i = 0; i < kGap; ++i) order[short_rows + i] = short_rows > 0 ? order[short_rows - 1] : 0;
  }

 private:
  template <class I>
  void sort_by(const I* crow) {
    uint8_t key[kPiece];
    for (int64_t i = 0; i <= rows; ++i) begin[i] = static_cast<uint16_t>(crow[i] - crow[0]);
    short_rows = empty_rows = 0;
    uint8_t falls = 0;
    for (int64_t i = 0; i < rows; ++i) {
      const uint16_t length = static_cast<uint16_t>(begin[i + 1] - begin[i]);
      key[i] = static_cast<uint8_t>(length > kShort ? kShort + 1 : length);
      short_rows += length <= kShort;
      empty_rows += length == 0;
    }
    for (int64_t i = 0; i + 1 < rows; ++i) falls |= key[i] > key[i + 1];
    if (falls == 0) {  // rows of one length, above all
      for (int64_t i = 0; i < short_rows; ++i) order[i] = static_cast<uint16_t>(i);
      for (int64_t i = short_rows; i < rows; ++i) order[i + kGap] = static_cast<uint16_t>(i);
      return;
    }
    // A counting sort of four quarters at once: neighbours of one length would wait for each other's store.
    constexpr int kQuarters = 4;
    const int64_t quarter = rows / kQuarters, rest = kQuarters * quarter;
    uint16_t at[kQuarters][kShort + 2] = {};
    for (int64_t i = 0; i < quarter; ++i)
      for (int q = 0; q < kQuarters; ++q) ++at[q][key[q * quarter + i]];
    for (int64_t i = rest; i < rows; ++i) ++at[kQuarters - 1][key[i]];
    uint16_t sum = 0;
    for (int k = 0; k < kShort + 2; ++k) {
      if (k == kShort + 1) sum = static_cast<uint16_t>(sum + kGap);
      for (auto& starts : at) {
        const uint16_t found = starts[k];
        starts[k] = sum;
        sum = static_cast<uint16_t>(sum + found);
      }
    }
    const auto place = [&](int q, int64_t i) { order[at[q][key[i]]++] = static_cast<uint16_t>(i); };
    for (int64_t i = 0; i < quarter; ++i)
      for (int q = 0; q < kQuarters; ++q) place(q, q * quarter + i);
    for (int64_t i = rest; i < rows; ++i) place(kQuarters - 1, i);
  }
};

}  // namespace myops::cpu
