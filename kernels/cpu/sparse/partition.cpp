#include "partition.h"

namespace myops::cpu {
namespace {

template <class I>
Status cut_rows(const Csr& A, const Runtime& rt, Partition& out, int64_t size) {
  const I* crow = static_cast<const I*>(A.crow);
  if (crow[0] != 0 || crow[A.rows] != A.nnz) return Status::bad_crow;
  // Of a crow that rises: two neighbours of whole rows hold more than `size`; a long row has its segments and the short
  // piece before it.
  const int64_t most = 3 * ((A.rows + A.nnz) / size + 1);
  out.pieces = static_cast<Piece*>(rt.allocate(rt.cookie, most * static_cast<int64_t>(sizeof(Piece))));
  for (int64_t first = 0; first < A.rows;) {
    const auto entries = [&](int64_t end) {
      return static_cast<uint64_t>(crow[end]) - static_cast<uint64_t>(crow[first]);
    };
    const auto fits = [&](int64_t end) { return entries(end) <= static_cast<uint64_t>(size - (end - first)); };
    int64_t end = first, beyond = A.rows - first < size ? A.rows + 1 : first + size + 1;
    while (end + 1 < beyond) {
      const int64_t middle = end + (beyond - end) / 2;
      (fits(middle) ? end : beyond) = middle;
    }
    const int64_t stop = crow[end > first ? end : first + 1];
    if (stop < crow[first] || stop > A.nnz) return Status::bad_crow;
    // Where crow falls inside a piece the search may end it early, so that there are more pieces than `most`.
    const int64_t more = end > first ? 1 : (stop - crow[first] + size - 1) / size;
    if (more > most - out.count) return Status::bad_crow;
    if (end > first) {
      out.pieces[out.count++] = {first, end, crow[first], crow[end], -1};
      first = end;
      continue;
    }
    for (int64_t e = crow[first]; e < stop; e += size)
      out.pieces[out.count++] = {first, first + 1, e, e + size < stop ? e + size : stop, out.slots++};
    ++first;
  }
  return Status::ok;
}

}  // namespace

Status cut(const Csr& A, const Runtime& rt, Partition& out, int64_t size) {
  return A.wide ? cut_rows<int64_t>(A, rt, out, size) : cut_rows<int32_t>(A, rt, out, size);
}

}  // namespace myops::cpu
