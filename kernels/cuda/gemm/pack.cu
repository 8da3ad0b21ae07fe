// Copies an operand that tensor-core kernels cannot take to one that they can: a unit stride, rows of a multiple of 16
// bytes. What the rows are padded by is not written; nothing reads it.
//
// The bound: every element is read and written once, beside the product's own K reads of it. A tile of 32 x 32 goes
// through shared memory, so that both sides are read and written along their unit strides.
#include "../element.cuh"
#include "gemm.h"

namespace myops {
namespace {

constexpr int kTile = 32, kRowsAtOnce = 8, kPackThreads = kTile * kRowsAtOnce;

template <class T>
struct PackShared {
  T tile[kTile][kTile + 4 / sizeof(T)];
};

// T: an unsigned integer of the element's size. Both views are seen as lines by K.
template <class T>
__global__ void __launch_bounds__(kPackThreads) pack_operand(const __grid_constant__ PackOperand p) {
  PackShared<T>& shared = shared_storage<PackShared<T>>();
  const int fast = static_cast<int>(threadIdx.x) % kTile, slow = static_cast<int>(threadIdx.x) / kTile;
  const int64_t tiles_k = ceil_divide(p.K, kTile), tiles = ceil_divide(p.lines, kTile) * tiles_k;
  for (int64_t index = blockIdx.x; index < tiles * p.items; index += gridDim.x) {
    const int64_t line0 = index % tiles / tiles_k * kTile, k0 = index % tiles_k * kTile;
    int64_t item = index / tiles, from = 0, to = 0;
    for (int i = p.batch_dims - 1; i >= 0; --i) {
      from += item % p.batch_size[i] * p.from.batch_stride[i];
      to += item % p.batch_size[i] * p.to.batch_stride[i];
      item /= p.batch_size[i];
    }
    for (int i = slow; i < kTile; i += kRowsAtOnce) {
      const int line = p.from_along_k ? i : fast, k = p.from_along_k ? fast : i;
      if (line0 + line < p.lines && k0 + k < p.K)
        shared_store(&shared.tile[line][k],
                     static_cast<const T*>(
                         p.from.data)[from + (line0 + line) * p.from.row_stride + (k0 + k) * p.from.col_stride]);
    }
    __syncthreads();
    for (int i = slow; i < kTile; i += kRowsAtOnce) {
      const int line = p.to_along_k ? i : fast, k = p.to_along_k ? fast : i;
      if (line0 + line < p.lines && k0 + k < p.K)
        static_cast<T*>(p.to.data)[to + (line0 + line) * p.to.row_stride + (k0 + k) * p.to.col_stride] =
            shared_load(&shared.tile[line][k]);
    }
    __syncthreads();
  }
}

}  // namespace

cudaError_t launch_pack(const PackOperand& p, int element_bytes, cudaStream_t stream) {
  const int64_t tiles = ceil_divide(p.lines, kTile) * ceil_divide(p.K, kTile) * p.items;
  if (tiles == 0) return cudaSuccess;
  auto* kernel = element_bytes == 2 ? &pack_operand<uint16_t> : &pack_operand<uint8_t>;
  return launch_kernel(kernel, dim3(static_cast<unsigned>(tiles < kMaxBlocks ? tiles : kMaxBlocks)), dim3(kPackThreads),
                       0, stream, p);
}

}  // namespace myops
