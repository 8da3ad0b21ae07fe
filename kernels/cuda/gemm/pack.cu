// Copies operands that tensor-core kernels cannot take to ones that they can: a unit stride, rows of a multiple of 16
// bytes. What the rows are padded by is zero. A and B are one launch.
//
// The bound: every element is read and written once, beside the product's own K reads of it. A block moves one tile
// through shared memory: it is read along the source's smaller stride, element by element because rows begin anywhere,
// all of a thread's elements in flight at once, and written along the copy's rows by 16 bytes.
#include "../element.cuh"
#include "gemm.h"

namespace myops {
namespace {

constexpr int kTile = 64, kPackThreads = 256;
constexpr int kSlowStep = kPackThreads / kTile, kPackLoads = kTile / kSlowStep;

// One operand as the kernel sees it. Along: the direction of the copy's rows. Fast: that of the source's smaller
// stride.
struct PackTiles {
  const void* from;
  void* to;
  int64_t along_stride, across_stride, pitch;  // of the source, of the source, of the copy's rows
  int64_t along, across;                       // sizes
  bool along_is_fast;
  unsigned tiles_along, tiles_across, tiles;  // tiles: of all items
  int batch_dims;
  unsigned batch_size[kMaxBatchDims];
  int64_t from_batch[kMaxBatchDims], to_batch[kMaxBatchDims];
};
struct PackPair {
  PackTiles operand[2];
};

template <class T>
struct PackShared {
  static constexpr int kPitch = kTile + 4 / sizeof(T);  // an odd number of words
  T tile[kTile * kPitch];                               // [across][along]
};

// T: an unsigned integer of the element's size.
template <class T>
__global__ void __launch_bounds__(kPackThreads) pack_operands(const __grid_constant__ PackPair pair) {
  let_next_kernel_begin();  // the product, which sets up its barriers meanwhile
  constexpr int kPitch = PackShared<T>::kPitch;
  PackShared<T>& shared = shared_storage<PackShared<T>>();
  const int thread = static_cast<int>(threadIdx.x);
  const bool second = blockIdx.x >= pair.operand[0].tiles;
  const PackTiles& p = pair.operand[second];
  const unsigned index = blockIdx.x - (second ? pair.operand[0].tiles : 0);

  const unsigned row_of_tiles = index / p.tiles_along;
  unsigned item = row_of_tiles / p.tiles_across;
  const int64_t along0 = int64_t(index - row_of_tiles * p.tiles_along) * kTile;
  const int64_t across0 = int64_t(row_of_tiles - item * p.tiles_across) * kTile;
  int64_t from_at = along0 * p.along_stride + across0 * p.across_stride, to_at = across0 * p.pitch + along0;
  for (int i = p.batch_dims - 1; i >= 0; --i) {
    const unsigned outer = i == 0 ? 0 : item / p.batch_size[i], here = item - outer * p.batch_size[i];
    from_at += here * p.from_batch[i];
    to_at += here * p.to_batch[i];
    item = outer;
  }
  const int along_left = p.along - along0 < kTile ? static_cast<int>(p.along - along0) : kTile;
  const int across_left = p.across - across0 < kTile ? static_cast<int>(p.across - across0) : kTile;

  {
    const int fast = thread % kTile, slow = thread / kTile;
    const int64_t fast_stride = p.along_is_fast ? p.along_stride : p.across_stride;
    const int64_t slow_stride = p.along_is_fast ? p.across_stride : p.along_stride;
    const int fast_left = p.along_is_fast ? along_left : across_left;
    const int slow_left = fast < fast_left ? (p.along_is_fast ? across_left : along_left) - slow : 0;
    const T* from = static_cast<const T*>(p.from) + from_at + fast * fast_stride + slow * slow_stride;
    T values[kPackLoads];
#pragma unroll
    for (int i = 0; i < kPackLoads; ++i, from += kSlowStep * slow_stride)
      values[i] = i * kSlowStep < slow_left ? *from : T(0);
    T* target = shared.tile + (p.along_is_fast ? slow * kPitch + fast : fast * kPitch + slow);
    const int step = kSlowStep * (p.along_is_fast ? kPitch : 1);
#pragma unroll
    for (int i = 0; i < kPackLoads; ++i) shared_store(target + i * step, values[i]);
  }
  __syncthreads();
  constexpr int kVector = 16 / sizeof(T), kVectors = kTile / kVector;
  const int along = thread % kVectors * kVector;
  if (along >= along_left) return;
  T* to = static_cast<T*>(p.to) + to_at + along;
#pragma unroll
  for (int across = thread / kVectors; across < kTile; across += kPackThreads / kVectors) {
    if (across >= across_left) return;
    Pack<uint32_t, 4> pack;
#pragma unroll
    for (int w = 0; w < 4; ++w)
      pack.v[w] = shared_load(reinterpret_cast<const uint32_t*>(shared.tile + across * kPitch + along) + w);
    store_pack(to + across * p.pitch, pack);
  }
}

// An operand of no tiles where there is nothing to copy.
PackTiles pack_tiles(const PackOperand& p) {
  PackTiles t{};
  t.from = p.from.data, t.to = p.to.data;
  t.along_stride = p.to_along_k ? p.from.col_stride : p.from.row_stride;
  t.across_stride = p.to_along_k ? p.from.row_stride : p.from.col_stride;
  t.pitch = p.to_along_k ? p.to.row_stride : p.to.col_stride;
  t.along = p.to_along_k ? p.K : p.lines;
  t.across = p.to_along_k ? p.lines : p.K;
  t.along_is_fast = p.from_along_k == p.to_along_k;
  t.tiles_along = static_cast<unsigned>(ceil_divide(t.along, kTile));
  t.tiles_across = static_cast<unsigned>(ceil_divide(t.across, kTile));
  t.batch_dims = p.batch_dims;
  for (int i = 0; i < p.batch_dims; ++i) {
    t.batch_size[i] = static_cast<unsigned>(p.batch_size[i]);
    t.from_batch[i] = p.from.batch_stride[i], t.to_batch[i] = p.to.batch_stride[i];
  }
  return t;
}

}  // namespace

// Operands that a grid has no blocks for together are a launch each. One alone, of 2^31 tiles, is a copy of 34 GB at
// least, of an operand that is nearly all padding: refused.
cudaError_t launch_pack(const PackOperand* operands, int count, int element_bytes, cudaStream_t stream) {
  PackPair pair{};
  int64_t tiles = 0;
  for (int i = 0; i < count; ++i) {
    const PackOperand& p = operands[i];
    const int64_t here = ceil_divide(p.lines, kTile) * ceil_divide(p.K, kTile) * p.items;
    if (here > kMaxBlocks) return cudaErrorInvalidValue;
    pair.operand[i] = pack_tiles(p);
    pair.operand[i].tiles = static_cast<unsigned>(here);
    tiles += here;
  }
  if (tiles == 0) return cudaSuccess;
  if (tiles > kMaxBlocks) {
    const cudaError_t error = launch_pack(operands, 1, element_bytes, stream);
    return error == cudaSuccess ? launch_pack(operands + 1, 1, element_bytes, stream) : error;
  }
  auto* kernel = element_bytes == 4   ? &pack_operands<uint32_t>
                 : element_bytes == 2 ? &pack_operands<uint16_t>
                                      : &pack_operands<uint8_t>;
  return launch_kernel(kernel, dim3(static_cast<unsigned>(tiles)), dim3(kPackThreads), 0, stream, pair);
}

}  // namespace myops
