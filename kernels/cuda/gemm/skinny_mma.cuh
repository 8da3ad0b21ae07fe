// Products of 16-bit floats with at most 16 rows: one walk through B on tensor cores, bound by the bandwidth of memory.
//
// Not here: which problems come here and how K is shared (plan_skinny.h), products with few columns (they are
// transposed), the wider floats (skinny.cuh).
//
// The bound: B is read once, K * N * 2 bytes; A stays in the caches. The columns of B are the rows of mma.sync and the
// rows of A its columns, of which the spare ones repeat the last row. A warp owns 16 * kGroups columns and a range of
// K, which it walks through in stages of 4 KB: while it multiplies one, the next ones are on their way to its own part
// of shared memory (cp.async), so the bytes in flight cost no registers and no warp waits for another.
//
//   along K   B runs along K (x @ W.T). A lane copies and loads the very 16 bytes where its fragment is.
//   along N   B runs along N (x @ W). Runs of 32 * kGroups bytes; fragments are transposed on the way (ldmatrix).
//
// Either way a lane takes 16 bytes of a row of A, so of each 32 values of K the first mma.sync takes 8t .. 8t + 3 of
// the lanes t = 0 .. 3 and the second 8t + 4 .. 8t + 7. The sums of warps meet in shared memory, those of blocks in the
// workspace, in ascending order of K. The order depends on K, N, the batch and the machine, and not on M.
#pragma once
#include "../mma.cuh"
#include "skinny_splits.cuh"

namespace myops {

constexpr int kSkinnyChunks = kSkinnyStageBytes / 512;  // of 16 bytes, that a lane copies in a stage

// Two neighbours of eight 16-bit elements, as one register of a fragment.
template <class T>
__device__ __forceinline__ uint32_t pair_of(const Pack<T, 8>& pack, int pair) {
  Pack<uint32_t, 4> words;
  memcpy(&words, &pack, sizeof(words));
  return words.v[pair];
}

// Eight neighbours one by one, zeros from `left` on.
template <class T>
__device__ __forceinline__ Pack<T, 8> gather(const T* address, int64_t stride, int left) {
  Pack<T, 8> pack = {};
#pragma unroll
  for (int i = 0; i < 8; ++i, address += stride)  // stepped on: eight offsets would be kept in registers
    if (i < left) pack.v[i] = *address;
  return pack;
}

// Waits for all but the `groups` latest groups of copies.
__device__ __forceinline__ void async_wait_but(int groups) {
  switch (groups) {
    case 0: return async_wait<0>();
    case 1: return async_wait<1>();
    case 2: return async_wait<2>();
    case 3: return async_wait<3>();
    case 4: return async_wait<4>();
    default: return async_wait<kSkinnyStages - 1>();
  }
}

// A warp's columns of B, its range of K, and its part of shared memory.
template <DType kIn, bool kAlongK, int kGroups, int kTiles>
struct SkinnyWarp {
  using In = typename Element<kIn>::Type;
  using Vector = Pack<In, 8>;
  static constexpr int kStep = skinny_stage_k(kGroups);  // values of K in a stage
  static constexpr int kParts = 2 * kGroups;             // groups of eight columns

  const In* a[kTiles];                // rows lane / 4 + 8 * j, k = 0 of the range
  const In* b[kAlongK ? kParts : 1];  // along K: columns lane / 4 + 8 * part; along N: the lane's eight columns
  int64_t a_stride, b_k_stride, b_n_stride;
  int64_t k_size;  // of the range
  int left_n;      // along N: of the lane's eight columns, those that exist
  bool a_packed, b_packed;
  Vector* stages;

  // Where the chunk of columns 8 * part .. 8 * part + 7 of row k is in a stage of the form along N: rows that one
  // ldmatrix reads lie in different banks.
  static __device__ __forceinline__ int chunk_of(int k, int part) { return k * kParts + (part ^ k / 8 % 4); }

  __device__ __forceinline__ void copy(Vector* slot, const In* from, int64_t stride, int left) const {
    if (b_packed)
      async_copy16(slot, from, 2 * left);
    else
      shared_store(slot, gather(from, stride, left));
  }

  // Starts the copies of the stage from k on.
  __device__ __forceinline__ void start(Vector* stage, int64_t k) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int left = k_size - k < kStep ? static_cast<int>(k_size - k) : kStep;
    if constexpr (kAlongK) {
      const auto copy_columns = [&](int u, auto&& copy_part) {
        const int at = 32 * u + 8 * (lane % 4), count = left - at < 0 ? 0 : left - at < 8 ? left - at : 8;
        copy_part(stage + 32 * kParts * u + lane, (count > 0 ? k + at : 0) * b_k_stride, count);
      };
      if (b_packed) {
#pragma unroll
        for (int u = 0; u < kStep / 32; ++u)
          copy_columns(u, [&](Vector* slot, int64_t offset, int count) {
#pragma unroll
            for (int part = 0; part < kParts; ++part) async_copy16(slot + 32 * part, b[part] + offset, 2 * count);
          });
      } else {
#pragma unroll 1
        for (int u = 0; u < kStep / 32; ++u)
          copy_columns(u, [&](Vector* slot, int64_t offset, int count) {
#pragma unroll 1
            for (int part = 0; part < kParts; ++part) {
              const In* from = b[0];
#pragma unroll
              for (int p = 1; p < kParts; ++p) from = p == part ? b[p] : from;  // an index would need memory
              shared_store(slot + 32 * part, gather(from + offset, b_k_stride, count));
            }
          });
      }
    } else {
      constexpr int kRows = 32 / kParts;  // that a warp copies together
      const In* from = b[0] + (k + lane / kParts) * b_k_stride;
      const auto copy_rows = [&](int i) {
        const int at = kRows * i + lane / kParts;
        const bool exists = at < left && left_n > 0;
        copy(stage + chunk_of(at, lane % kParts), exists ? from : b[0], b_n_stride, exists ? left_n : 0);
        from += kRows * b_k_stride;
      };
      if (b_packed) {
#pragma unroll
        for (int i = 0; i < kSkinnyChunks; ++i) copy_rows(i);
      } else {
#pragma unroll 1
        for (int i = 0; i < kSkinnyChunks; ++i) copy_rows(i);
      }
    }
  }

  // Adds the products of 32 values of K, number u of the stage. sums[q][j][i]: of column 16 * q + lane / 4 (i < 2) or 8
  // further and row 8 * j + lane % 4 * 2 + i % 2.
  __device__ __forceinline__ void multiply(float (&sums)[kGroups][kTiles][4], const Vector* stage, int u,
                                           const Vector (&x)[kTiles]) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int q = 0; q < kGroups; ++q) {
      uint32_t columns[2][4];
      if constexpr (kAlongK) {
        const Vector low = shared_load(stage + 32 * (u * kParts + 2 * q) + lane);
        const Vector high = shared_load(stage + 32 * (u * kParts + 2 * q + 1) + lane);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          columns[m][0] = pair_of(low, 2 * m), columns[m][1] = pair_of(high, 2 * m);
          columns[m][2] = pair_of(low, 2 * m + 1), columns[m][3] = pair_of(high, 2 * m + 1);
        }
      } else {
        const int k = 32 * u + lane % 8 / 2 * 8 + lane / 16 * 2 + lane % 2;
#pragma unroll
        for (int m = 0; m < 2; ++m)
          load_matrices_transposed(columns[m], stage + chunk_of(k + 4 * m, 2 * q + lane / 8 % 2));
      }
#pragma unroll
      for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int j = 0; j < kTiles; ++j) {
          const uint32_t rows[2] = {pair_of(x[j], 2 * m), pair_of(x[j], 2 * m + 1)};
          WarpMma<In>::add(sums[q][j], columns[m], rows);
        }
    }
  }

  __device__ __forceinline__ void walk(float (&sums)[kGroups][kTiles][4], int count) const {
    constexpr int kUnroll = kStep / 32;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    constexpr int kStage = kSkinnyStageBytes / sizeof(Vector);
    int s = 0;
    // The first rounds only start copies, the last ones only multiply.
#pragma unroll 1
    for (int64_t k = -count * kStep; k < k_size; k += kStep) {
      Vector* stage = stages + s * kStage;
      if (k >= 0) {
        const auto arrive = [&] {
          async_wait_but(count - 1);
          __syncwarp();
        };
        if (a_packed && k_size - k >= kStep) {
          Vector x[kUnroll][kTiles];  // on its way while the warp waits for B
#pragma unroll
          for (int u = 0; u < kUnroll; ++u)
#pragma unroll
            for (int j = 0; j < kTiles; ++j) x[u][j] = load_pack<Vector>(a[j] + k + 32 * u + 8 * (lane % 4));
          arrive();
#pragma unroll
          for (int u = 0; u < kUnroll; ++u) multiply(sums, stage, u, x[u]);
        } else {
          arrive();
#pragma unroll 1
          for (int u = 0; u < kUnroll; ++u) {
            const int64_t at = k + 32 * u + 8 * (lane % 4), left = k_size - at;
            Vector x[kTiles];
#pragma unroll
            for (int j = 0; j < kTiles; ++j)
              x[j] = gather(a[j] + at * a_stride, a_stride, left < 8 ? static_cast<int>(left) : 8);
            multiply(sums, stage, u, x);
          }
        }
        __syncwarp();
      }
      if (k + count * kStep < k_size) start(stage, k + count * kStep);
      async_commit();
      s = s + 1 == count ? 0 : s + 1;
    }
  }
};

template <DType kIn, bool kAlongK, int kGroups, int kTiles>
__global__ void __launch_bounds__(kSkinnyThreads, 2)
    gemm_skinny_mma(const __grid_constant__ Gemm g, const __grid_constant__ GemmPlan plan, void* workspace) {
  using Warp = SkinnyWarp<kIn, kAlongK, kGroups, kTiles>;
  using In = typename Warp::In;
  constexpr int kColumns = 16 * kGroups;
  unsigned char* shared = dynamic_shared<unsigned char>();

  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32, group = lane / 4;
  const int shift = __ffs(plan.warps_k) - 1;  // divisions are long: warps_k is a power of two
  const int warp_k = warp & (plan.warps_k - 1), warp_n = warp >> shift;
  const int columns = kColumns * kSkinnyWarps >> shift;  // of the block
  const int64_t share_k = plan.split_k >> shift;         // of a warp
  // The sums of a warp lie where its stages were.
  const auto partial = [&](int of_warp, int row, int col) {
    return reinterpret_cast<float*>(shared + of_warp * plan.stages * kSkinnyStageBytes) + row * kColumns + col;
  };

#pragma unroll 1
  for (int64_t index = blockIdx.x; index < plan.tiles; index += gridDim.x) {
    const int64_t line = plan.tiles == plan.tiles_n ? 0 : index / plan.tiles_n,
                  col0 = (index - line * plan.tiles_n) * columns;
    const int64_t item = plan.splits == 1 ? line : line / plan.splits, split = line - item * plan.splits;
    const int64_t column = col0 + warp_n * kColumns;
    const int64_t k0 = split * plan.split_k + warp_k * share_k, left_k = g.K - k0;
    Warp w;
    w.a_stride = g.A.col_stride, w.b_k_stride = g.B.row_stride, w.b_n_stride = g.B.col_stride;
    w.a_packed = plan.a_packed, w.b_packed = plan.b_packed;
    w.k_size = column >= g.N || left_k <= 0 ? 0 : left_k < share_k ? left_k : share_k;
    w.stages = reinterpret_cast<typename Warp::Vector*>(shared + warp * plan.stages * kSkinnyStageBytes);
    const In* a = static_cast<const In*>(g.A.data) + batch_offset(g, g.A, item) + k0 * g.A.col_stride;
    const In* b = static_cast<const In*>(g.B.data) + batch_offset(g, g.B, item) + k0 * g.B.row_stride;
    const int last = static_cast<int>(g.M) - 1;
#pragma unroll
    for (int j = 0; j < kTiles; ++j) w.a[j] = a + (group + 8 * j < last ? group + 8 * j : last) * g.A.row_stride;
    if constexpr (kAlongK) {
#pragma unroll
      for (int part = 0; part < Warp::kParts; ++part) {
        const int64_t col = column + group + 8 * part;
        w.b[part] = b + (col < g.N ? col : g.N - 1) * g.B.col_stride;
      }
    } else {
      const int64_t col = column + lane % Warp::kParts * 8, left = g.N - col;
      w.left_n = left < 0 ? 0 : left < 8 ? static_cast<int>(left) : 8;
      w.b[0] = b + (left > 0 ? col : 0) * g.B.col_stride;
    }
    float sums[kGroups][kTiles][4] = {};
    wait_for_previous_kernel();
    let_next_kernel_begin();
    w.walk(sums, plan.stages);
#pragma unroll
    for (int q = 0; q < kGroups; ++q)
#pragma unroll
      for (int j = 0; j < kTiles; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          shared_store(partial(warp, 8 * j + lane % 4 * 2 + i % 2, 16 * q + group + i / 2 * 8), sums[q][j][i]);
    __syncthreads();

    const int64_t d_base = batch_offset(g, g.D, item);
    const int quads_shift = __ffs(columns / 4) - 1, count = static_cast<int>(g.M) << quads_shift;
#pragma unroll 1
    for (int i = thread; i < count; i += kSkinnyThreads) {
      const int row = i >> quads_shift, quad = (i - (row << quads_shift)) * 4, first = quad / kColumns << shift;
      float sum[4] = {};
#pragma unroll 1
      for (int of_warp = first; of_warp < first + plan.warps_k; ++of_warp) {
        const auto part = shared_load(reinterpret_cast<const Pack<float, 4>*>(partial(of_warp, row, quad % kColumns)));
#pragma unroll
        for (int v = 0; v < 4; ++v) sum[v] += part.v[v];
      }
      store_skinny<kIn>(sum, g, plan, split, item, d_base, row, col0 + quad, workspace);
    }
    __syncthreads();
  }
}

template <DType kIn, bool kAlongK, int kGroups, int kTiles>
cudaError_t launch_skinny_tiles(const Gemm& g, const GemmPlan& plan, void* workspace, cudaStream_t stream) {
  const size_t shared_bytes = static_cast<size_t>(kSkinnyWarps * plan.stages * kSkinnyStageBytes);
  const cudaError_t error = launch_kernel_early(plan.early, &gemm_skinny_mma<kIn, kAlongK, kGroups, kTiles>,
                                                dim3(static_cast<unsigned>(plan.blocks)), dim3(kSkinnyThreads),
                                                shared_bytes, stream, g, plan, workspace);
  return error != cudaSuccess || plan.splits == 1 ? error : launch_combine<kIn>(g, plan, workspace, stream);
}

template <DType kIn>
cudaError_t launch_skinny_mma(const Gemm& g, const GemmPlan& plan, void* workspace, cudaStream_t stream) {
  if (plan.b_along_k)
    return g.M <= 8 ? launch_skinny_tiles<kIn, true, 1, 1>(g, plan, workspace, stream)
                    : launch_skinny_tiles<kIn, true, 1, 2>(g, plan, workspace, stream);
  return g.M <= 8 ? launch_skinny_tiles<kIn, false, 2, 1>(g, plan, workspace, stream)
                  : launch_skinny_tiles<kIn, false, 2, 2>(g, plan, workspace, stream);
}

}  // namespace myops
