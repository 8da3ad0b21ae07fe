// Sparse times sparse (spgemm.cu): rows of C whose products are sorted.
//
// More columns of B than there are bits for: the products are sorted by column, of which a product's number is the low
// half, so that equal columns lie in the order of the entries of A. They are formed when they are filled in alone.
//
//   up to 8192          a block, keys and products in shared memory, a bitonic network of which a warp does what it can
//                       in registers; keys of 32 bits where columns allow it
//   more                keys of many rows in global memory, sorted by (row, column) at once by sort.h, in batches of
//                       bounded size
#pragma once
#include "sort.h"
#include "spgemm_product.cuh"

namespace myops {
namespace {

// ---- Too many columns, up to 8192 products: a block -----------------------------------------------------------------

// A thread holds kOwn neighbouring keys, a warp 256: steps of the network within them need no shared memory.
constexpr int kOwn = 8;
constexpr int kWarpKeys = kWarpSize * kOwn;
constexpr int kMostThreads = (1 << kNumberBits) / kOwn;

template <class Key>
__device__ __forceinline__ void put_in_order(Key& first, Key& second, bool ascending) {
  const Key low = first < second ? first : second, high = first < second ? second : first;
  first = ascending ? low : high;
  second = ascending ? high : low;
}

// The steps of distances below kWarpKeys of one stage of the network. first: where the thread's keys begin.
template <class Key>
__device__ __forceinline__ void merge_in_warp(Key (&keys)[kOwn], int first, int length) {
  for (int distance = length / 2 < kWarpKeys ? length / 2 : kWarpKeys / 2; distance >= kOwn; distance /= 2) {
    const bool lower = (first & distance) == 0, ascending = (first & length) == 0;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const Key other = shuffle_xor(keys[i], distance / kOwn);
      keys[i] = (keys[i] < other) == (lower == ascending) ? keys[i] : other;
    }
  }
#pragma unroll
  for (int distance = kOwn / 2; distance > 0; distance /= 2)
    if (distance < length)
#pragma unroll
      for (int i = 0; i < kOwn; ++i)
        if ((i & distance) == 0) put_in_order(keys[i], keys[i + distance], ((first + i) & length) == 0);
}

// Sorts the first `size` keys, a power of two; all threads of the block, kOwn keys each at least.
template <class Key>
__device__ __forceinline__ void sort_keys(Key* keys, int size) {
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x), first = thread * kOwn;
  for (int length = 2; length <= size;) {
    for (int distance = length / 2; distance >= kWarpKeys; distance /= 2) {
      __syncthreads();
      for (int t = thread; t < size / 2; t += threads) {
        const int x = (t / distance) * 2 * distance + t % distance;
        Key low = shared_load(&keys[x]), high = shared_load(&keys[x + distance]);
        put_in_order(low, high, (x & length) == 0);
        shared_store(&keys[x], low);
        shared_store(&keys[x + distance], high);
      }
    }
    __syncthreads();
    Key own[kOwn];
#pragma unroll
    for (int i = 0; i < kOwn; ++i) own[i] = first < size ? shared_load(&keys[first + i]) : Key(0);
    do {  // a stage, or all that stay within a warp
      merge_in_warp(own, first, length);
      length *= 2;
    } while (length <= size && length <= kWarpKeys);
#pragma unroll
    for (int i = 0; i < kOwn; ++i)
      if (first < size) shared_store(&keys[first + i], own[i]);
  }
  __syncthreads();
}

// Dynamic shared memory: (kFill) `capacity` products, then as many keys.
template <class Acc, class Key, bool kFill>
constexpr size_t block_bytes(int64_t capacity) {
  return capacity * (sizeof(Key) + (kFill ? sizeof(Acc) : 0));
}

// A key is a column and the number of a product below number_bits.
template <class Acc, class Key, bool kFill>
__global__ void __launch_bounds__(kMostThreads)
    block_rows(const __grid_constant__ Product p, const int64_t* list, int capacity, int number_bits) {
  BlockSums& sums = shared_storage<BlockSums>();
  Acc* const products = dynamic_shared<Acc>();  // first, as they may need 16 bytes of alignment
  Key* const keys = reinterpret_cast<Key*>(products + (kFill ? capacity : 0));
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int64_t i = list[blockIdx.x];
  const Range entries = p.row(i);
  const int count = static_cast<int>(p.products(entries));
  int size = kOwn;
  while (size < count) size *= 2;
  for (int t = thread; t < size; t += threads) {
    Key key = ~Key(0);
    if (t < count) {
      int64_t e, n;
      p.find(entries, t, e, n);
      key = static_cast<Key>(load_index(p.B.col, p.B.wide, n)) << number_bits | static_cast<Key>(t);
      if constexpr (kFill) shared_store(&products[t], p.template value<Acc>(e, n));
    }
    shared_store(&keys[t], key);
  }
  sort_keys(keys, size);
  const auto column_at = [&](int t) { return shared_load(&keys[t]) >> number_bits; };
  int64_t columns = 0;  // before
  for (int first = 0; first < count; first += threads) {
    const int t = first + thread;
    const bool head = t < count && (t == 0 || column_at(t) != column_at(t - 1));
    int64_t total;
    const int64_t rank = sum_of_threads_before(head, total, sums);
    if (kFill && head) {
      const Key column = column_at(t);
      Acc sum{};
      for (int x = t; x < count && column_at(x) == column; ++x)
        sum = plus(sum, shared_load(&products[shared_load(&keys[x]) & ((Key(1) << number_bits) - 1)]));
      p.write(p.lengths[i] + columns + rank, static_cast<int64_t>(column), sum);
    }
    columns += total;
  }
  if (!kFill && thread == 0) p.lengths[i] = columns;
}

// ---- Too many columns, more products: many rows at once, in global memory -------------------------------------------

constexpr int64_t kBatch = 1 << 24;  // products of long rows at a time, 48 bytes each, one row at least

// Rows first .. first + rows of the list; their products are numbered through, row x from starts[x] - starts[first] on.
struct Batch {
  const int64_t* list;
  const int64_t* starts;
  int64_t first, rows, count;
  int column_bits;
  const uint64_t *keys, *order;  // sorted: the row in the batch, then the column; and the number
  int64_t* heads;                // how many columns begin before

  __device__ __forceinline__ int64_t begin(int64_t x) const { return starts[first + x] - starts[first]; }
};

__global__ void __launch_bounds__(kThreads)
    count_row_products(const Product p, const int64_t* list, int64_t rows, int64_t* starts) {
  if (const int64_t x = thread_in_grid(); x < rows) starts[x] = p.products(p.row(list[x]));
}

__global__ void __launch_bounds__(kThreads)
    make_keys(const __grid_constant__ Product p, const __grid_constant__ Batch batch, uint64_t* keys) {
  if (const int64_t t = thread_in_grid(); t < batch.count) {
    const int64_t x = lower_bound(batch.rows - 1, t + 1, [&](int64_t i) { return batch.begin(i + 1); });
    int64_t e, n;
    p.find(p.row(batch.list[batch.first + x]), t - batch.begin(x), e, n);
    keys[t] = static_cast<uint64_t>(x) << batch.column_bits | static_cast<uint64_t>(load_index(p.B.col, p.B.wide, n));
  }
}

__global__ void __launch_bounds__(kThreads) mark_heads(const __grid_constant__ Batch batch) {
  if (const int64_t t = thread_in_grid(); t < batch.count)
    batch.heads[t] = t == 0 || batch.keys[t] != batch.keys[t - 1];
}

__global__ void __launch_bounds__(kThreads) count_heads(const Product p, const __grid_constant__ Batch batch) {
  if (const int64_t x = thread_in_grid(); x < batch.rows)
    p.lengths[batch.list[batch.first + x]] = batch.heads[batch.begin(x + 1)] - batch.heads[batch.begin(x)];
}

constexpr int64_t kSerial = 64;  // products that a thread adds up alone

template <class Acc>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    fill_batch(const __grid_constant__ Product p, const __grid_constant__ Batch batch) {
  struct Shared {
    BlockList list;
    BlockReduction<Acc> sum;
  };
  Shared& shared = shared_storage<Shared>();
  const auto value_at = [&](int64_t t, int64_t x, Range entries) {
    int64_t e, n;
    p.find(entries, static_cast<int64_t>(batch.order[t]) - batch.begin(x), e, n);
    return p.template value<Acc>(e, n);
  };
  const auto write = [&](int64_t t, int64_t x, Acc sum) {
    const uint64_t column = batch.keys[t] & ((uint64_t(1) << batch.column_bits) - 1);
    const int64_t start = p.lengths[batch.list[batch.first + x]];
    p.write(start + batch.heads[t] - batch.heads[batch.begin(x)], static_cast<int64_t>(column), sum);
  };
  shared.list.clear();
  const int64_t t = thread_in_grid();
  if (t < batch.count && (t == 0 || batch.keys[t] != batch.keys[t - 1])) {
    const uint64_t key = batch.keys[t];
    const int64_t x = static_cast<int64_t>(key >> batch.column_bits);
    const Range entries = p.row(batch.list[batch.first + x]);
    Acc sum{};
    int64_t at = t;
    for (; at < batch.count && batch.keys[at] == key && at < t + kSerial; ++at)
      sum = plus(sum, value_at(at, x, entries));
    if (at < batch.count && batch.keys[at] == key)
      shared.list.add(t);
    else
      write(t, x, sum);
  }
  __syncthreads();
  const int longs = shared.list.size();
  for (int l = 0; l < longs; ++l) {
    const int64_t from = shared.list[l];
    const uint64_t key = batch.keys[from];
    const int64_t x = static_cast<int64_t>(key >> batch.column_bits);
    const Range entries = p.row(batch.list[batch.first + x]);
    Acc mine{};
    for (int64_t at = from + threadIdx.x; at < batch.count && batch.keys[at] == key; at += kThreads)
      mine = plus(mine, value_at(at, x, entries));
    const Acc sum = shared.sum(mine);
    if (threadIdx.x == 0) write(from, x, sum);
  }
}

}  // namespace
}  // namespace myops
