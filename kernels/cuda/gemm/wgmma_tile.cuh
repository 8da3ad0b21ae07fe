// One tiled matrix product of 16-bit floats, or of float32 rounded to TF32, on a Hopper: TMA, wgmma, clusters,
// warp-specialised, persistent.
//
// Not here: what makes operands fit for TMA (pack.cu), other dtypes and architectures (mma_tile.cuh, tile.cuh).
//
// Contract: each operand has a unit stride, along K or along its lines (16-bit only); base, pitch and batch strides are
// multiples of 16 bytes; at most three batch dimensions. TMA fills with zeros what lies beyond the operands.
//
//   A block has three warpgroups. Two are consumers: each multiplies 64 rows of the tile by all its columns, and ends
//   the tile. In the last one, one thread is the loader, which keeps kStages tiles of K (128 bytes) under way, also of
//   the next tile of D while this one ends; and one is the storer, which moves whole tiles of C and D (16-bit only).
//
//   Ping-pong: where a tile has only 64 rows (kTurns = 2), the consumers take the tiles of the block in turn, and the
//   tensor cores multiply for one while the other ends its tile. There is one ring of stages and one staging area, for
//   tile after tile; a consumer passes over the stages of the other's tiles.
//
//   A cluster is kCluster blocks with neighbouring tiles: those with the same columns each load a share of B for all of
//   them, those with the same rows a share of A. Blocks whose tile lies beyond D load and multiply zeros, and store
//   nothing.
//
//     full[s]    the loader, and the bytes of the stage, some from the other blocks   -> the consumers may read
//     empty[s]   each consumer warp of the cluster, once its wgmma is done            -> the loaders may overwrite
//     staged     the storer: the staging area holds the tile of C, or is free         -> the consumers may write there
//     finished   each warp of a consumer: it wrote its part of a slab of D to the
//                staging area                                                         -> the storer may store the slab
//     turns      each warp of the other consumer: all stages of its tile were full    -> a consumer may wait for full
//
// staged, finished: for each turn. A wait knows the parity of a phase alone: that of a barrier which is two phases
// behind would be over at once, so that a consumer may not wait for a stage before the one in front of it came.
//
// Shared memory of an operand in a stage, rows of 128 bytes: along K, a row per line; along its lines, slabs of 64
// lines with a row per value of K. The staging area: for each 64 rows, slabs of 64 columns with a row per row of D.
// Every result is summed in steps of 32 bytes of K, ascending, in one accumulator: bits do not depend on the tile, M,
// N or the batch.
#pragma once
#include "../element.cuh"
#include "../hopper.cuh"
#include "../mma.cuh"
#include "epilogue.cuh"
#include "gemm.h"

namespace myops {

constexpr int kWgmmaConsumers = 2, kWgmmaThreads = 128 * (kWgmmaConsumers + 1), kWgmmaWarps = 4 * kWgmmaConsumers;

template <TileSize kSize>
struct WgmmaLayout {
  static constexpr WgmmaShape kShape = wgmma_shape(kSize);
  static constexpr int kTileM = kShape.m, kTileN = kShape.n, kCluster = kShape.cluster();
  static constexpr int kTurns = kWgmmaConsumers * 64 / kTileM;  // consumers that have tiles of their own
  static constexpr int kWarps = kWgmmaWarps / kTurns;           // that multiply a stage
  static constexpr int kRowBytes = 128, kSlab = 64, kSlabBytes = kSlab * kRowBytes;
  static constexpr int kBytesA = kTileM * kRowBytes, kBytesB = kTileN * kRowBytes, kStageBytes = kBytesA + kBytesB;
  // What a block loads for the cluster.
  static constexpr int kLinesA = kTileM / kShape.cluster_n, kLinesB = kTileN / kShape.cluster_m;
  static constexpr int kStagingBytes = kTileM * kTileN * 2, kSlabs = kStagingBytes / kSlabBytes;
  static constexpr int kAlignment = 1024;  // of the swizzle; the launch asks for so much more
  static constexpr int kBarrierBytes = 256;
  static constexpr int kRowsOfC = 2 * kTileN * kWgmmaWarps;  // bytes: a copy for each consumer warp
  static constexpr int kRoom = (227 * 1024 - kAlignment - kBarrierBytes - kRowsOfC - kStagingBytes) / kStageBytes;
  static constexpr int kStages = kRoom < 8 ? kRoom : 8;
  static constexpr int kStagingAt = kStages * kStageBytes, kRowsAt = kStagingAt + kStagingBytes;
  static constexpr int kBarriersAt = kRowsAt + kRowsOfC;
  static constexpr int kSharedBytes = kBarriersAt + kBarrierBytes + kAlignment;
  // Groups of wgmma (a stage each) that are in flight while the next stage is waited for: one where stages suffice.
  static constexpr int kAhead = kStages > 3 ? 1 : 0;

  static_assert(kTileM * kTurns == 64 * kWgmmaConsumers, "a consumer takes 64 rows");
  static_assert((2 * kStages + (2 + kSlabs) * kTurns) * sizeof(SharedBarrier) <= kBarrierBytes, "room for barriers");
  static_assert(kStages >= 3, "fewer stages do not cover the latency of memory");
};

// The stages in turn; the parity of the phase in which each is next.
template <int kStages>
struct StageRing {
  int slot = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void advance() {
    if (++slot == kStages) slot = 0, parity ^= 1;
  }
  __device__ __forceinline__ void advance(int steps) {
    const uint32_t next = static_cast<uint32_t>(slot + steps);
    slot = static_cast<int>(next % kStages), parity ^= next / kStages & 1;
  }
};

// From one lane for all, so that the compiler knows that what depends on it is the same for all of them: descriptors
// are made in uniform registers, and not moved there, 16 of a stage.
__device__ __forceinline__ int warpgroup_index() {
  return __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0);
}

// What the warps of a block share of its pipeline: the stages in shared memory, and the barriers that say who may touch
// them. All threads of the cluster make it together, before anything in global memory is touched.
template <class Layout>
struct WgmmaPipeline {
  static constexpr int kStages = Layout::kStages, kCluster = Layout::kCluster;
  char* const stages;
  SharedBarrier *const full, *const empty;
  const int rank;  // in the cluster

  __device__ __forceinline__ static char* aligned(char* unaligned) {
    return unaligned + (Layout::kAlignment - shared_address(unaligned) % Layout::kAlignment) % Layout::kAlignment;
  }

  // init: of further barriers, by one thread. loads: whether there is anything to load, and the maps are such.
  template <class Init>
  __device__ __forceinline__ WgmmaPipeline(const TensorMap* map_a, const TensorMap* map_b, const Init& init,
                                           bool loads = true)
      : stages(aligned(dynamic_shared<char>())),
        full(reinterpret_cast<SharedBarrier*>(stages + Layout::kBarriersAt)),
        empty(full + kStages),
        rank(kCluster > 1 ? static_cast<int>(cluster_rank()) : 0) {
    if (threadIdx.x == kWgmmaThreads - 1 && loads) {
      prefetch_map(map_a);
      prefetch_map(map_b);
    }
    if (threadIdx.x == 0) {
      for (int s = 0; s < kStages; ++s) {
        barrier_init(&full[s], 1);
        barrier_init(&empty[s], kCluster * Layout::kWarps);
      }
      init(empty + kStages);
      barrier_init_fence();
    }
    if constexpr (kCluster > 1)
      cluster_sync();
    else
      __syncthreads();
    wait_for_previous_kernel();
    let_next_kernel_begin();
  }

  // A consumer warp is done with a stage.
  __device__ __forceinline__ void release(int slot) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    if constexpr (kCluster > 1) {
      if (lane < kCluster) barrier_arrive_at(&empty[slot], static_cast<uint32_t>(lane));
    } else if (lane == 0) {
      barrier_arrive(&empty[slot]);
    }
  }
};

// Values of K in a stage.
template <class In>
constexpr int kWgmmaDepth = 128 / sizeof(In);

// Copies one stage of kLines lines of one operand from `line` on, 128 bytes of K (64 values) from k on.
template <bool kAlongK, int kLines, bool kMulticast>
__device__ __forceinline__ void load_stage(char* target, const TensorMap* map, SharedBarrier* full, int32_t line,
                                           int32_t k, const int32_t (&batch)[3]) {
  constexpr int kBoxes = kAlongK ? 1 : kLines / 64;
#pragma unroll
  for (int box = 0; box < kBoxes; ++box) {
    const int32_t at[5] = {kAlongK ? k : line + 64 * box, kAlongK ? line : k, batch[0], batch[1], batch[2]};
    if constexpr (kMulticast)
      tma_load_multicast(target + box * 64 * 128, map, full, at);
    else
      tma_load(target + box * 64 * 128, map, full, at);
  }
}

// 32 bytes of K from 32 * step on, of the lines that begin at `tile`.
template <bool kAlongK>
__device__ __forceinline__ uint64_t stage_descriptor(const char* tile, int step) {
  return kAlongK ? wgmma_descriptor(tile + 32 * step, 16, 1024) : wgmma_descriptor(tile + 2048 * step, 64 * 128, 1024);
}

// The end of a loader. A block whose shared memory others reach must not end before all consumers of the cluster have
// released its last stages.
template <class Layout>
__device__ __forceinline__ void await_releases(SharedBarrier* empty, StageRing<Layout::kStages> ring) {
  if constexpr (Layout::kCluster > 1)
    for (int s = 0; s < Layout::kStages; ++s, ring.advance()) barrier_wait(&empty[ring.slot], ring.parity ^ 1);
}

// The batch coordinates of an item in an operand's map, where a broadcast dimension has one item.
__device__ __forceinline__ void batch_coordinates(const Gemm& g, const MatrixView& v, uint32_t item, int32_t (&at)[3]) {
#pragma unroll
  for (int i = 2; i >= 0; --i) {
    at[i] = 0;
    if (i >= g.batch_dims) continue;
    const uint32_t size = static_cast<uint32_t>(g.batch_size[i]), outer = i == 0 ? 0 : item / size;
    if (v.batch_stride[i] != 0) at[i] = static_cast<int32_t>(item - outer * size);
    item = outer;
  }
}

// Where a block is in the walk over the tiles of D: three divisions, one after the other, which the first load of a
// tile waits for. In 32 bits, which suffice (numbers_wgmma_tiles).
template <TileSize kSize>
struct WgmmaTile {
  using Layout = WgmmaLayout<kSize>;
  uint32_t item;
  int32_t row, col;

  __device__ __forceinline__ WgmmaTile(const GemmPlan& plan, int64_t index, int rank) {
    const TileIndex tile =
        tile_at(static_cast<uint32_t>(index), static_cast<uint32_t>(plan.tiles_m), static_cast<uint32_t>(plan.tiles_n));
    item = static_cast<uint32_t>(tile.item);
    constexpr WgmmaShape shape = Layout::kShape;
    static_assert(shape.cluster_m == 1 || shape.cluster_n == 1, "ranks run along one side");
    row = (static_cast<int32_t>(tile.m) * shape.cluster_m + rank % shape.cluster_m) * Layout::kTileM;
    col = (static_cast<int32_t>(tile.n) * shape.cluster_n + rank % shape.cluster_n) * Layout::kTileN;
  }
};

// The loader: the stages of all tiles of this block, one after the other.
template <class In, TileSize kSize, bool kAAlongK, bool kBAlongK>
__device__ __forceinline__ void load_tiles(const Gemm& g, const GemmPlan& plan, const TensorMap* map_a,
                                           const TensorMap* map_b, char* stages, SharedBarrier* full,
                                           SharedBarrier* empty, int rank, int steps) {
  using Layout = WgmmaLayout<kSize>;
  constexpr int kCluster = Layout::kCluster;
  StageRing<Layout::kStages> ring;
  for (int64_t index = blockIdx.x / kCluster; index < plan.tiles; index += gridDim.x / kCluster) {
    const WgmmaTile<kSize> tile(plan, index, rank);
    int32_t batch_a[3], batch_b[3];
    batch_coordinates(g, g.A, tile.item, batch_a);
    batch_coordinates(g, g.B, tile.item, batch_b);
    for (int step = 0; step < steps; ++step, ring.advance()) {
      barrier_wait(&empty[ring.slot], ring.parity ^ 1);
      char* const stage = stages + ring.slot * Layout::kStageBytes;
      SharedBarrier* const arrived = &full[ring.slot];
      barrier_arrive_expect(arrived, Layout::kStageBytes);
      const int k = step * kWgmmaDepth<In>;
      const int a = rank % Layout::kShape.cluster_n * Layout::kLinesA,
                b = rank % Layout::kShape.cluster_m * Layout::kLinesB;
      load_stage<kAAlongK, Layout::kLinesA, (Layout::kShape.cluster_n > 1)>(stage + a * Layout::kRowBytes, map_a,
                                                                            arrived, tile.row + a, k, batch_a);
      load_stage<kBAlongK, Layout::kLinesB, (Layout::kShape.cluster_m > 1)>(
          stage + Layout::kBytesA + b * Layout::kRowBytes, map_b, arrived, tile.col + b, k, batch_b);
    }
  }
  await_releases<Layout>(empty, ring);
}

// Calls move(slab of the staging area, column, row) for each slab of the tile, in the order in which consumers end
// them.
template <TileSize kSize, class Move>
__device__ __forceinline__ void for_each_slab(const WgmmaTile<kSize>& tile, const Move& move) {
  using Layout = WgmmaLayout<kSize>;
  constexpr int kAcross = Layout::kTileN / Layout::kSlab, kDown = Layout::kTileM / 64;
#pragma unroll 1
  for (int i = 0; i < Layout::kSlabs; ++i)
    move(i % kDown * kAcross + i / kDown, tile.col + i / kDown * 64, tile.row + i % kDown * 64);
}

// The storer: C to the staging area as soon as that is free, and D from there; before D what its activation is applied
// to, where that is asked for. Tile after tile, for the consumers in turn.
template <TileSize kSize>
__device__ __forceinline__ void move_results(const Gemm& g, const GemmPlan& plan, const TensorMap* map_c,
                                             const TensorMap* map_d, const TensorMap* map_before, char* staging,
                                             SharedBarrier* staged, SharedBarrier* finished, int rank) {
  using Layout = WgmmaLayout<kSize>;
  const bool matrix_c = g.C.data != nullptr && g.C.row_stride != 0;
  prefetch_map(map_d);
  if (matrix_c) prefetch_map(map_c);
  if (g.preactivation != nullptr) prefetch_map(map_before);
  uint32_t parity = 0;  // a bit for each turn
  int turn = 0;
  for (int64_t index = blockIdx.x / Layout::kCluster; index < plan.tiles; index += gridDim.x / Layout::kCluster) {
    const WgmmaTile<kSize> tile(plan, index, rank);
    int32_t batch[3];
#pragma unroll 1
    for (int rounds = g.preactivation != nullptr ? 2 : 1; rounds > 0; --rounds) {
      tma_store_wait();
      if (matrix_c) {
        batch_coordinates(g, g.C, tile.item, batch);
        barrier_arrive_expect(&staged[turn], Layout::kStagingBytes);
        for_each_slab<kSize>(tile, [&](int slab, int32_t col, int32_t row) {
          tma_load(staging + slab * Layout::kSlabBytes, map_c, &staged[turn], {col, row, batch[0], batch[1], batch[2]});
        });
        // The next tile's C on its way to the cache, while the staging area is taken.
        const int64_t following = index + gridDim.x / Layout::kCluster;
        if (following < plan.tiles) {
          const WgmmaTile<kSize> next(plan, following, rank);
          batch_coordinates(g, g.C, next.item, batch);
          for_each_slab<kSize>(next, [&](int, int32_t col, int32_t row) {
            tma_prefetch(map_c, {col, row, batch[0], batch[1], batch[2]});
          });
        }
      } else {
        barrier_arrive(&staged[turn]);
      }
      batch_coordinates(g, g.D, tile.item, batch);
      for_each_slab<kSize>(tile, [&](int slab, int32_t col, int32_t row) {
        barrier_wait(&finished[turn * Layout::kSlabs + slab], parity >> turn & 1);
        if (row < g.M && col < g.N)
          tma_store(rounds == 1 ? map_d : map_before, staging + slab * Layout::kSlabBytes,
                    {col, row, batch[0], batch[1], batch[2]});
      });
      parity ^= 1u << turn;
    }
    if constexpr (Layout::kTurns > 1) turn ^= 1;
  }
  tma_store_wait();
}

// A C that is one row: a warp loads its part of it, kTileN columns, before it multiplies and keeps it in shared memory
// after, so that nobody waits for it.
template <class In, int kTileN>
__device__ __forceinline__ void load_row(const Gemm& g, In (&part)[kTileN / 32], int64_t item, int32_t col) {
  const In* const row = static_cast<const In*>(g.C.data) + batch_offset(g, g.C, item);
  col += static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int i = 0; i < kTileN / 32; ++i) part[i] = col + 32 * i < g.N ? row[(col + 32 * i) * g.C.col_stride] : In{};
}
template <class In, int kTileN>
__device__ __forceinline__ void keep_row(const In (&part)[kTileN / 32], In* copy) {
#pragma unroll
  for (int i = 0; i < kTileN / 32; ++i) shared_store(&copy[static_cast<int>(threadIdx.x) % 32 + 32 * i], part[i]);
  __syncwarp();
}

// f(alpha * sums + beta * C) in 16 bits, to the staging area of a consumer, whose slabs are `finished` one after the
// other. C, if it is a matrix, is there already.
template <DType kIn, int kTileN, bool kActivates>
__device__ __forceinline__ void stage_results(const Gemm& g, const float (&sums)[kTileN / 2], char* staging,
                                              const typename Element<kIn>::Type* c_row, Activation f,
                                              SharedBarrier* finished) {
  using In = typename Element<kIn>::Type;
  using Two = Pack<In, 2>;
  const int warp = static_cast<int>(threadIdx.x) / 32 % 4, lane = static_cast<int>(threadIdx.x) % 32;
  char* const first = staging + (warp * 16 + lane % 16) * 128;
  const int chunk = computed_here((lane / 16 ^ lane % 8) * 16);  // bytes, of the row's first two exchanged ones
  const float alpha = static_cast<float>(g.alpha), beta = static_cast<float>(g.beta);
  const bool row_c = g.C.data != nullptr && g.C.row_stride == 0, matrix_c = g.C.data != nullptr && !row_c;
#pragma unroll
  for (int j = 0; j < kTileN / 16; ++j) {
    char* const target = first + j / 4 * 64 * 128 + (chunk ^ j % 4 * 32);
    float v[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] = scale(alpha, sums[8 * j + i]);
    uint32_t words[4];
    if (matrix_c) {
      load_matrices(words, target);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        Two two;
        memcpy(&two, &words[i], sizeof(two));
        v[2 * i] = scale_add(beta, widen<float>(two.v[0]), v[2 * i]);
        v[2 * i + 1] = scale_add(beta, widen<float>(two.v[1]), v[2 * i + 1]);
      }
    }
    if (row_c) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const Two two = shared_load(reinterpret_cast<const Two*>(c_row + 16 * j + 8 * half + lane % 4 * 2));
#pragma unroll
        for (int i = 0; i < 4; ++i)  // rows g and g + 8
          v[4 * half + i] = scale_add(beta, widen<float>(two.v[i % 2]), v[4 * half + i]);
      }
    }
    if (kActivates) activate_fast(v, f);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const Two two = narrow_two<In>(v[2 * i], v[2 * i + 1]);
      memcpy(&words[i], &two, sizeof(two));
    }
    store_matrices(target, words);
    if (j % 4 == 3) {
      async_proxy_fence();
      __syncwarp();
      if (lane == 0) barrier_arrive(&finished[j / 4]);
    }
  }
}

// Everything that an epilogue can be, through the warp's own part of the staging area, which has room for kColumns of
// its 16 rows.
template <DType kIn, int kColumns, int kTileN>
__device__ __forceinline__ void finish_results(const Gemm& g, const GemmPlan& plan, const float (&sums)[kTileN / 2],
                                               char* staging, int64_t item, int64_t row0, int64_t col0) {
  constexpr int kGroups = kColumns / 8;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float* const part = reinterpret_cast<float*>(staging + static_cast<int>(threadIdx.x) / 32 * 16 * kColumns * 4);
  // Groups of 8 columns are exchanged, so that the rows of a fragment lie in different banks.
  const auto at = [&](int row, int group) { return part + row * kColumns + (group ^ row % 4) * 8; };
  const Epilogue<kIn> epilogue(g, item);
#pragma unroll 1
  for (int chunk = 0; chunk < kTileN / kColumns; ++chunk) {
    const auto put = [&](int first) {
#pragma unroll
      for (int j = 0; j < kGroups; ++j)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const Pack<float, 2> two = {{sums[first + 4 * j + 2 * i], sums[first + 4 * j + 2 * i + 1]}};
          shared_store(reinterpret_cast<Pack<float, 2>*>(at(lane / 4 + 8 * i, j) + lane % 4 * 2), two);
        }
    };
#pragma unroll
    for (int c = 0; c < kTileN / kColumns; ++c)
      if (c == chunk) put(c * kColumns / 2);
    __syncwarp();
    const int64_t col = col0 + chunk * kColumns;
    if (plan.packed_rows) {
#pragma unroll 1
      for (int i = lane; i < 32 * kGroups; i += 32) {
        const int row = i / (2 * kGroups), column = i % (2 * kGroups) * 4;
        Pack<float, 4> four = shared_load(reinterpret_cast<const Pack<float, 4>*>(at(row, column / 8) + column % 8));
        epilogue.store(four.v, row0 + row, col + column);
      }
    } else {  // rows that begin anywhere: neighbouring lanes store neighbouring elements
#pragma unroll 1
      for (int i = lane; i < 16 * kColumns; i += 32) {
        const int row = i / kColumns, column = i % kColumns;
        float v[1] = {shared_load(at(row, column / 8) + column % 8)};
        epilogue.store(v, row0 + row, col + column);
      }
    }
    __syncwarp();
  }
}

template <DType kIn, TileSize kSize, bool kAAlongK, bool kBAlongK>
__global__ void __launch_bounds__(kWgmmaThreads, 1)
    gemm_wgmma(const __grid_constant__ Gemm g, const __grid_constant__ GemmPlan plan,
               const __grid_constant__ TensorMap map_a, const __grid_constant__ TensorMap map_b,
               const __grid_constant__ TensorMap map_c, const __grid_constant__ TensorMap map_d,
               const __grid_constant__ TensorMap map_before) {
#if MYOPS_HOPPER_CODE
  using Layout = WgmmaLayout<kSize>;
  using In = typename Element<kIn>::Type;
  constexpr int kStages = Layout::kStages, kTileN = Layout::kTileN, kCluster = Layout::kCluster;
  constexpr int kTurns = Layout::kTurns;
  constexpr bool kStoresTiles = sizeof(In) == 2;
  const auto init = [](SharedBarrier* further) {
    for (int i = 0; i < kTurns; ++i) barrier_init(further++, 1);  // staged
    for (int i = 0; i < kTurns * Layout::kSlabs; ++i)             // finished
      barrier_init(further++, kWgmmaWarps / kWgmmaConsumers);
    for (int i = 0; kTurns > 1 && i < kTurns; ++i) barrier_init(further++, Layout::kWarps);  // turns
  };
  const WgmmaPipeline<Layout> pipeline(&map_a, &map_b, init, g.K > 0);
  char *const stages = pipeline.stages, *const staging = stages + Layout::kStagingAt;
  SharedBarrier *const full = pipeline.full, *const empty = pipeline.empty;
  SharedBarrier *const staged = empty + kStages, *const finished = staged + kTurns,
                       *const turns = finished + kTurns * Layout::kSlabs;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  const int warpgroup = warpgroup_index();
  const int rank = pipeline.rank, steps = static_cast<int>((g.K + kWgmmaDepth<In> - 1) / kWgmmaDepth<In>);

  if (warpgroup == kWgmmaConsumers) {
    registers_decrease<56>();
    if (thread % 128 == 0)
      load_tiles<In, kSize, kAAlongK, kBAlongK>(g, plan, &map_a, &map_b, stages, full, empty, rank, steps);
    else if (kStoresTiles && thread % 128 == 32 && plan.stores_tiles)
      move_results<kSize>(g, plan, &map_c, &map_d, &map_before, staging, staged, finished, rank);
  } else {
    registers_increase<224>();
    StageRing<kStages> ring;
    uint32_t staged_parity = 0;
    const int turn = kTurns > 1 ? warpgroup : 0, part = kTurns > 1 ? 0 : warpgroup;
    uint32_t turn_parity = turn ^ 1;  // the first turn begins at once
    if constexpr (kTurns > 1)
      if (turn > 0) ring.advance(steps);
    // A warpgroup's 64 rows are 64 rows of 128 bytes, or one slab.
    const int first_a = part * 64 * Layout::kRowBytes;
    In* const c_row = reinterpret_cast<In*>(stages + Layout::kRowsAt) + thread / 32 * kTileN;
    const bool row_c = kStoresTiles && plan.stores_tiles && g.C.data != nullptr && g.C.row_stride == 0;
    for (int64_t index = blockIdx.x / kCluster + turn * (gridDim.x / kCluster); index < plan.tiles;
         index += kTurns * (gridDim.x / kCluster)) {
      float sums[kTileN / 2];
#pragma unroll
      for (int i = 0; i < kTileN / 2; ++i) sums[i] = 0;
      In part_of_c[kTileN / 32];
      if (row_c) {
        const WgmmaTile<kSize> tile(plan, index, rank);
        load_row<In, kTileN>(g, part_of_c, tile.item, tile.col);
      }
      if constexpr (kTurns > 1) {
        barrier_wait(&turns[turn], turn_parity);
        turn_parity ^= 1;
      }
      int previous = -1;
      for (int step = 0; step < steps; ++step, ring.advance()) {
        const char* const stage = stages + ring.slot * Layout::kStageBytes;
        barrier_wait(&full[ring.slot], ring.parity);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < Layout::kRowBytes / 32; ++k)
          Wgmma<In, kTileN, kAAlongK, kBAlongK>::add(sums, stage_descriptor<kAAlongK>(stage + first_a, k),
                                                     stage_descriptor<kBAlongK>(stage + Layout::kBytesA, k));
        wgmma_commit();
        wgmma_wait<Layout::kAhead>(sums);
        if (Layout::kAhead == 0)
          pipeline.release(ring.slot);
        else if (previous >= 0)
          pipeline.release(previous);
        previous = ring.slot;
      }
      if constexpr (kTurns > 1) {
        __syncwarp();  // where K is 0, nothing else has brought the lanes together behind their wait
        if (lane == 0) barrier_arrive(&turns[turn ^ 1]);
        ring.advance(steps);
      }
      if constexpr (Layout::kAhead > 0) {
        wgmma_wait<0>(sums);
        if (previous >= 0) pipeline.release(previous);
      }

      if constexpr (kStoresTiles) {
        if (plan.stores_tiles) {
          char* const mine = staging + part * 64 * kTileN * 2;
          SharedBarrier* const my_slabs = finished + (kTurns > 1 ? turn : part) * (kTileN / Layout::kSlab);
          if (row_c) keep_row<In, kTileN>(part_of_c, c_row);
#pragma unroll 1
          for (int rounds = g.preactivation != nullptr ? 2 : 1; rounds > 0; --rounds) {
            barrier_wait(&staged[turn], staged_parity);
            staged_parity ^= 1;
            if (rounds == 1 && g.activation != Activation::none)
              stage_results<kIn, kTileN, true>(g, sums, mine, c_row, g.activation, my_slabs);
            else
              stage_results<kIn, kTileN, false>(g, sums, mine, c_row, Activation::none, my_slabs);
          }
          continue;
        }
      }
      const WgmmaTile<kSize> tile(plan, index, rank);  // not kept beside the sums
      const int64_t row = tile.row + (part * 4 + thread / 32 % 4) * 16;
      constexpr int kColumns = Layout::kStagingBytes / (kWgmmaWarps * 16 * 4);
      finish_results<kIn, kColumns, kTileN>(g, plan, sums, staging, tile.item, row, tile.col);
    }
  }
#endif
}

// A map of a matrix whose rows of `inner` elements are contiguous and `pitch` elements apart, with its batch, and where
// there are `planes` of it, `plane` elements apart, with those after the batch.
inline cudaError_t matrix_map(const Gemm& g, const MatrixView& v, DType type, int64_t inner, int64_t outer,
                              int64_t pitch, int box_rows, TensorMap* map, int planes = 1, int64_t plane = 0) {
  TensorMapSpec spec;
  const int bytes = element_size(type), unit = 16 / bytes;
  const int64_t row = (outer == 1 ? ceil_divide(inner, unit) * unit : pitch) * bytes;  // one row: any that is valid
  spec.data = v.data, spec.type = type;
  spec.size[0] = static_cast<uint64_t>(inner), spec.size[1] = static_cast<uint64_t>(outer);
  spec.stride[0] = static_cast<uint64_t>(row);
  for (int i = 0; i < 3; ++i) {
    const bool present = i < g.batch_dims && v.batch_stride[i] != 0 && g.batch_size[i] > 1;
    const bool of_planes = planes > 1 && i == g.batch_dims;
    spec.size[2 + i] = static_cast<uint64_t>(of_planes ? planes : present ? g.batch_size[i] : 1);
    spec.stride[1 + i] = static_cast<uint64_t>(of_planes ? plane * bytes : present ? v.batch_stride[i] * bytes : row);
  }
  spec.box[0] = static_cast<uint32_t>(128 / bytes), spec.box[1] = static_cast<uint32_t>(box_rows);
  return make_tensor_map(spec, map);
}

template <DType kIn, TileSize kSize>
cudaError_t launch_wgmma_size(const Gemm& g, const GemmPlan& plan, cudaStream_t stream) {
  using Layout = WgmmaLayout<kSize>;
  TensorMap map_a = {}, map_b = {}, map_c = {}, map_d = {}, map_before = {};
  cudaError_t error = cudaSuccess;
  const auto operand = [&](const MatrixView& v, int64_t lines, int64_t line_stride, int64_t k_stride, bool along_k,
                           int box_lines, TensorMap* map) {
    if (error == cudaSuccess && g.K > 0)
      error = along_k ? matrix_map(g, v, g.in, g.K, lines, line_stride, box_lines, map)
                      : matrix_map(g, v, g.in, lines, g.K, k_stride, 64, map);
  };
  operand(g.A, g.M, g.A.row_stride, g.A.col_stride, plan.a_along_k, Layout::kLinesA, &map_a);
  operand(g.B, g.N, g.B.col_stride, g.B.row_stride, plan.b_along_k, Layout::kLinesB, &map_b);
  if (plan.stores_tiles) {
    if (error == cudaSuccess) error = matrix_map(g, g.D, g.in, g.N, g.M, g.D.row_stride, 64, &map_d);
    if (error == cudaSuccess && g.preactivation != nullptr) {
      MatrixView before = g.D;
      before.data = g.preactivation;
      error = matrix_map(g, before, g.in, g.N, g.M, g.D.row_stride, 64, &map_before);
    }
    if (error == cudaSuccess && g.C.data != nullptr && g.C.row_stride != 0)
      error = matrix_map(g, g.C, g.in, g.N, g.M, g.C.row_stride, 64, &map_c);
  }
  if (error != cudaSuccess) return error;
  auto* kernel = &gemm_wgmma<kIn, kSize, true, true>;
  if constexpr (element_size(kIn) == 2) {
    if (!plan.a_along_k && plan.b_along_k) kernel = &gemm_wgmma<kIn, kSize, false, true>;
    if (plan.a_along_k && !plan.b_along_k) kernel = &gemm_wgmma<kIn, kSize, true, false>;
    if (!plan.a_along_k && !plan.b_along_k) kernel = &gemm_wgmma<kIn, kSize, false, false>;
  }
  int64_t blocks = plan.blocks;
  if constexpr (Layout::kCluster > 2) {  // a block that begins when another has ended would double the time
    int clusters = 0;
    error = clusters_at_once(Layout::kCluster, kernel, dim3(kWgmmaThreads), Layout::kSharedBytes, &clusters);
    if (error != cudaSuccess) return error;
    if (blocks > clusters * Layout::kCluster) blocks = clusters * Layout::kCluster;
  }
  return launch_cluster(Layout::kCluster, kernel, dim3(static_cast<unsigned>(blocks)), dim3(kWgmmaThreads),
                        Layout::kSharedBytes, stream, g, plan, map_a, map_b, map_c, map_d, map_before);
}

template <DType kIn>
cudaError_t launch_wgmma_type(const Gemm& g, const GemmPlan& plan, cudaStream_t stream) {
  switch (plan.size) {
    case TileSize::narrow: return launch_wgmma_size<kIn, TileSize::narrow>(g, plan, stream);
    case TileSize::small: return launch_wgmma_size<kIn, TileSize::small>(g, plan, stream);
    case TileSize::pingpong: return launch_wgmma_size<kIn, TileSize::pingpong>(g, plan, stream);
    default: return launch_wgmma_size<kIn, TileSize::large>(g, plan, stream);
  }
}

}  // namespace myops
