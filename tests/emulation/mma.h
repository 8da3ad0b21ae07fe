// kernels/cuda/mma.cuh on a CPU: the layouts of fragments as the PTX ISA gives them, and sums in double, rounded once
// an instruction. A real tensor core adds in an order of its own, so bits of sums that are not exact are not compared.
//
// Included by cuda_emulation.h.
#pragma once

namespace emulation {

// What the 32 lanes of this warp gave to the same call. Two calls are kept: a lane may run ahead by one, not by two.
template <class T>
const T* gather_warp(const T& mine, const char* name) {
  struct Lane {
    uint64_t block = 0;
    unsigned calls = 0;
  };
  static T values[2][Scheduler::kMaxThreads];
  static Lane lanes[Scheduler::kMaxThreads];
  Scheduler& scheduler = Scheduler::get();
  const int thread = scheduler.thread();
  Lane& lane = lanes[thread];
  if (lane.block != scheduler.block_number()) lane = {scheduler.block_number(), 0};
  T* turn = values[lane.calls++ % 2];
  turn[thread] = mine;
  scheduler.exchange(0xffffffffu, 0, name);
  return turn + thread / 32 * 32;
}

template <class T>
double element(const uint32_t* registers, int i) {  // the i-th element of T in packed registers
  T value;
  std::memcpy(&value, reinterpret_cast<const char*>(registers) + i * sizeof(T), sizeof(T));
  if constexpr (std::is_same_v<T, __nv_bfloat16>)
    return __bfloat162float(value);
  else if constexpr (std::is_same_v<T, __half>)
    return __half2float(value);
  else if constexpr (std::is_same_v<T, float>)
    return first_bits_of_tf32(value);
  else
    return value;
}

inline float add_products(float sum, double products) { return static_cast<float>(sum + products); }
inline uint32_t add_products(uint32_t sum, double products) {
  return sum + static_cast<uint32_t>(static_cast<int64_t>(products));
}

}  // namespace emulation

namespace myops {

inline void load_matrices(uint32_t (&r)[4], const void* row) {
  const void* const* rows = emulation::gather_warp(row, "load_matrices");
  const int lane = emulation::lane_in(32);
  for (int i = 0; i < 4; ++i)
    r[i] = shared_load(reinterpret_cast<const uint32_t*>(static_cast<const char*>(rows[8 * i + lane / 4])) + lane % 4);
}

inline void load_matrices_transposed(uint32_t (&r)[4], const void* row) {
  const void* const* rows = emulation::gather_warp(row, "load_matrices_transposed");
  const int lane = emulation::lane_in(32);
  for (int i = 0; i < 4; ++i) {
    const auto element = [&](int at) {
      return shared_load(static_cast<const uint16_t*>(rows[8 * i + lane % 4 * 2 + at]) + lane / 4);
    };
    r[i] = element(0) | uint32_t(element(1)) << 16;
  }
}

// Each lane writes what it holds: bytes 4t .. 4t + 3 of row g of each matrix.
inline void store_matrices(void* row, const uint32_t (&r)[4]) {
  void* const* rows = emulation::gather_warp(row, "store_matrices");
  const int lane = emulation::lane_in(32);
  for (int i = 0; i < 4; ++i) {
    uint32_t* const target = reinterpret_cast<uint32_t*>(static_cast<char*>(rows[8 * i + lane / 4])) + lane % 4;
    shared_store(target, r[i]);
  }
}

inline void round_to_tf32(uint32_t (&r)[4]) {
  for (uint32_t& bits : r) bits = emulation::nearest_tf32(bits);
}

template <class In>
struct WarpMma {
  template <class Sum>
  static void add(Sum (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    struct Fragments {
      uint32_t a[4], b[2];
    };
    const Fragments* all = emulation::gather_warp(Fragments{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}}, "WarpMma::add");
    constexpr int kHalf = 16 / sizeof(In), kEach = 4 / sizeof(In);  // elements of K in 16 bytes, and in a register
    const int lane = emulation::lane_in(32);
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      double products = 0;
      for (int k = 0; k < 2 * kHalf; ++k) {
        const int half = k / kHalf, t = k % kHalf / kEach, at = k % kEach;
        const uint32_t* a_register = &all[row % 8 * 4 + t].a[half * 2 + row / 8];
        const uint32_t* b_register = &all[column * 4 + t].b[half];
        products += emulation::element<In>(a_register, at) * emulation::element<In>(b_register, at);
      }
      d[i] = emulation::add_products(d[i], products);
    }
  }
};

}  // namespace myops
