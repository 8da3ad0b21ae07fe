// Copies the operands of a product of integers to planes of limbs that run along K, for wgmma: one launch for both.
//
// A tile is 32 lines by 128 values of K. Where the operand runs along K, a warp takes a line at a time, a lane four
// values, which it loads at once if they are aligned, and stores a word of each limb. Else a lane has a line: the words
// go through shared memory, so that both sides are read and written along their unit strides. Rows are padded with
// zeros to 16 bytes.
//
// Behind the planes of an item stands which of them have anything in them: of each tile a byte for each warp, a bit for
// each limb, so that nothing has to be cleared first and no warp waits for another.
//
// The bound: every byte is read and written once.
#include "gemm.h"
#include "limbs.cuh"

namespace myops {
namespace {

constexpr int kPackWarps = kLimbPackWarps, kPackThreads = 32 * kPackWarps, kWords = kLimbTileK / 4;
static_assert(kWords == 32, "a lane has a word of a row");

struct LimbPacks {
  LimbPack operand[2];
};

template <int kLimbs>
struct LimbPackShared {
  uint32_t word[kLimbs][kLimbTileLines][kWords + 1];
};

template <class T>
__global__ void __launch_bounds__(kPackThreads) pack_limbs(const __grid_constant__ LimbPacks packs) {
  let_next_kernel_begin();
  constexpr int kLimbs = sizeof(T);
  LimbPackShared<kLimbs>& shared = shared_storage<LimbPackShared<kLimbs>>();
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t tiles_a = packs.operand[0].tiles, index = blockIdx.x;
  const LimbPack& p = packs.operand[index < tiles_a ? 0 : 1];
  const int64_t tile = index < tiles_a ? index : index - tiles_a;
  const int64_t tiles_k = ceil_divide(p.K, kLimbTileK), of_item = ceil_divide(p.lines, kLimbTileLines) * tiles_k;
  int64_t item = tile / of_item, from = 0, to = 0;
  const int64_t in_item = tile - item * of_item, line0 = in_item / tiles_k * kLimbTileLines;
  const int64_t k0 = in_item % tiles_k * kLimbTileK;
  for (int i = p.batch_dims - 1; i >= 0; --i) {
    const int64_t outer = item / p.batch_size[i], at = item - outer * p.batch_size[i];
    from += at * p.from.batch_stride[i];
    to += at * p.to.batch_stride[i];
    item = outer;
  }
  const T* const source =
      static_cast<const T*>(p.from.data) + from + line0 * p.from.row_stride + k0 * p.from.col_stride;
  char* const planes = static_cast<char*>(p.to.data) + to;
  char* const target = planes + line0 * p.to.row_stride + k0;
  const int lines = p.lines - line0 < kLimbTileLines ? static_cast<int>(p.lines - line0) : kLimbTileLines;
  const int depth = p.K - k0 < kLimbTileK ? static_cast<int>(p.K - k0) : kLimbTileK;
  const bool stores = k0 + 4 * lane < p.to.row_stride;  // this lane's word of a row exists
  T any = 0;                                            // the bits of this lane's limbs

  if (p.along_k) {
    constexpr int kLines = kLimbTileLines / kPackWarps;
    T element[kLines][4];
    const bool whole = p.vector && 4 * lane + 4 <= depth;
#pragma unroll
    for (int i = 0; i < kLines; ++i) {
      const int line = warp + i * kPackWarps;
      const T* const address = source + line * p.from.row_stride + 4 * lane * p.from.col_stride;
      if (whole && line < lines) {
        const auto pack = load_pack<Pack<T, 4>>(address);
#pragma unroll
        for (int e = 0; e < 4; ++e) element[i][e] = pack.v[e];
      } else {
#pragma unroll
        for (int e = 0; e < 4; ++e)
          element[i][e] = line < lines && 4 * lane + e < depth ? address[e * p.from.col_stride] : T{};
      }
    }
#pragma unroll
    for (int i = 0; i < kLines; ++i) {
      const int line = warp + i * kPackWarps;
      uint32_t limb[kLimbs];
      split_limbs(element[i], limb, &any);
#pragma unroll
      for (int j = 0; j < kLimbs; ++j)
        if (line < lines && stores)
          store_pack(target + line * p.to.row_stride + j * p.plane + 4 * lane, Pack<uint32_t, 1>{{limb[j]}});
    }
  } else {
    constexpr int kEach = kWords / kPackWarps;
    T element[kEach][4];
    const T* address = source + lane * p.from.row_stride + 4 * warp * p.from.col_stride;
#pragma unroll
    for (int i = 0; i < kEach; ++i)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int k = i * 4 * kPackWarps + e;
        element[i][e] = lane < lines && 4 * warp + k < depth ? address[k * p.from.col_stride] : T{};
      }
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      uint32_t limb[kLimbs];
      split_limbs(element[i], limb, &any);
#pragma unroll
      for (int j = 0; j < kLimbs; ++j) shared_store(&shared.word[j][lane][warp + i * kPackWarps], limb[j]);
    }
    __syncthreads();
    for (int row = warp; row < kLimbs * kLimbTileLines; row += kPackWarps) {
      const int line = row % kLimbTileLines, j = row / kLimbTileLines;
      if (line < lines && stores)
        store_pack(target + line * p.to.row_stride + j * p.plane + 4 * lane,
                   Pack<uint32_t, 1>{{shared_load(&shared.word[j][line][lane])}});
    }
  }
  uint32_t used = 0;
#pragma unroll
  for (int j = 0; j < kLimbs; ++j) used |= static_cast<uint32_t>((any >> 8 * j & 0xff) != 0) << j;
  used = __reduce_or_sync(~0u, used);
  if (lane == 0) planes[kLimbs * p.plane + in_item * kPackWarps + warp] = static_cast<char>(used);
}

}  // namespace

cudaError_t launch_limb_pack(const LimbPack& a, const LimbPack& b, int element_bytes, cudaStream_t stream) {
  const int64_t tiles = a.tiles + b.tiles;
  if (tiles == 0) return cudaSuccess;
  if (tiles > kMaxBlocks) return cudaErrorInvalidConfiguration;  // more than there is memory
  auto* kernel = element_bytes == 1   ? &pack_limbs<uint8_t>
                 : element_bytes == 2 ? &pack_limbs<uint16_t>
                 : element_bytes == 4 ? &pack_limbs<uint32_t>
                                      : &pack_limbs<uint64_t>;
  return launch_kernel(kernel, dim3(static_cast<unsigned>(tiles)), dim3(kPackThreads), 0, stream, LimbPacks{{a, b}});
}

}  // namespace myops
