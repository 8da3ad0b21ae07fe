// kernels/cuda/hopper.cuh and tensor_map.h on a CPU: barriers that count bytes, TMA, wgmma.
//
// What arrives late on the machine arrives as late as it may here, or at random:
//   tma_load    poisons its destination and lands when no thread can move (in every other block, at any time)
//   tma_store   reads its source as late; until then the source must not change
//   wgmma       reads its operands at once, computes at the wait, and compares: they must not have changed. Until then
//               the sums are NaN.
// Faults besides: a barrier that gets more arrivals than it counts or is used before its initialisation, a copy onto
// operands of a wgmma in flight, a wgmma of what a copy has not delivered, a missing wgmma_fence, descriptors on which
// the lanes of a warp differ, copies under way at the end of a cluster, misaligned maps and tiles, a tma_load,
// tma_store or wgmma of what a thread wrote with no async_proxy_fence by it in between, a block that ends without
// knowing of every arrival at its barriers, a meeting of the cluster before barrier_init_fence, a prefetch of no map.
//
// Layouts of descriptors, swizzle and sums are a reading of the PTX ISA; benchmarks/gpu.py compares them with a GPU.
// Included by cuda_emulation.h.
#pragma once
#include <deque>
#include <map>
#include <vector>

namespace myops {
struct TensorMap;
}
#include "../../kernels/cuda/tensor_map.h"

namespace myops {

struct TensorMap {
  TensorMapSpec spec;
};

inline cudaError_t make_tensor_map(const TensorMapSpec& spec, TensorMap* map) {
  const auto bytes = static_cast<uint64_t>(element_size(spec.type));
  bool valid = reinterpret_cast<uintptr_t>(spec.data) % 16 == 0 && spec.box[0] * bytes == 128 && spec.box[1] >= 1 &&
               spec.box[1] <= 256;
  for (uint64_t size : spec.size) valid &= size >= 1 && size <= uint64_t(1) << 32;
  for (uint64_t stride : spec.stride) valid &= stride >= 16 && stride % 16 == 0 && stride < uint64_t(1) << 40;
  map->spec = spec;
  if (valid) return cudaSuccess;
  emulation::last_fault = "a tensor map that the driver would refuse";
  return cudaErrorLaunchFailure;
}

struct alignas(8) SharedBarrier {
  uint64_t state;
};

inline uint32_t shared_address(const void* address) { return emulation::Scheduler::get().shared_offset(address); }

}  // namespace myops

namespace emulation {

// 128-byte swizzle: bits 4-6 of an address are exchanged by bits 7-9.
inline uint32_t swizzle(uint32_t address) { return address ^ (address >> 3 & 0x70); }

inline int64_t wgmmas = 0;  // warps that issued one, so far

class Hopper {
 public:
  struct Barrier {
    int count, pending;
    int64_t bytes;
    unsigned phase;
    uint32_t epoch;                     // of its initialisation, which others see from the next barrier of the block on
    bool fenced = false, seen = false;  // seen: from a meeting of the cluster on, before which it was fenced
    Scheduler::Clock told = {};         // by those that arrived
  };

  struct Copy {
    char* target;
    myops::TensorMapSpec spec;
    int32_t at[5];
    const void* barrier;  // nullptr: a store
    int64_t bytes;
    int thread = -1;                // of a store
    std::vector<char> source = {};  // of a store, as it was issued
  };

  struct Range {
    uint32_t begin = UINT32_MAX, end = 0;
    bool meets(uint32_t b, uint32_t e) const { return begin < e && b < end; }
  };

  // One wgmma as one warp sees it: its 16 rows of A, all of B. Values as read at the issue, row by row of K.
  struct Product {
    uint64_t a, b;
    int n;
    int depth;                     // of K
    uint32_t size, run;            // bytes of an element, and at each place: neighbours along K, or one element
    std::vector<uint32_t> places;  // of A, then of B
    std::vector<char> bytes;
    std::vector<double> values;
    Range range_a, range_b;
    bool checked = false;
  };

  struct Sums {
    void* registers = nullptr;
    std::vector<uint32_t> kept;  // bits of float or uint32_t
    int in_flight = 0;
  };

  struct Lane {
    size_t issued = 0, completed = 0;
    std::deque<size_t> groups;  // how many had been issued at each commit
    Sums sums;
    bool fenced = false, waits = false;  // waits: for its stores
  };

  struct Warp {
    std::deque<Product> products;  // those that a lane has yet to complete
    size_t forgotten = 0;          // how many there were before
    Lane lanes[Scheduler::kWarp];

    Product& product(size_t i) { return products[i - forgotten]; }
    void forget() {
      size_t completed = lanes[0].completed;
      for (const Lane& l : lanes) completed = l.completed < completed ? l.completed : completed;
      for (; forgotten < completed; ++forgotten) products.pop_front();
    }
  };

  static Hopper& get() {
    static Hopper hopper;
    Scheduler& scheduler = Scheduler::get();
    if (hopper.block_ != scheduler.block_number()) {
      hopper.block_ = scheduler.block_number();
      hopper.barriers_.clear();
      hopper.copies_.clear();
      for (Warp& warp : hopper.warps_) warp = Warp();
      scheduler.set_idle([](bool must) { return get().land(must); }, [] { return get().fault_at_end(); });
    }
    return hopper;
  }

  Barrier& barrier(const void* address) {
    const auto found = barriers_.find(address);
    if (found == barriers_.end() || (found->second.epoch == Scheduler::get().epoch() && !found->second.seen))
      Scheduler::get().fault("a shared barrier is used before its initialisation");
    return found->second;
  }

  void init(const void* address, int count) {
    Scheduler::get().shared_offset(address);  // in this block
    if (!barriers_.insert({address, {count, count, 0, 0, Scheduler::get().epoch()}}).second)
      Scheduler::get().fault("a shared barrier is initialised twice");
  }

  // What this block has initialised.
  void fence_initialisations() {
    for (auto& [address, barrier] : barriers_) barrier.fenced |= of_this_block(address);
  }
  void meet(const char* file, int line) {
    for (const auto& [address, barrier] : barriers_)
      if (of_this_block(address) && !barrier.fenced)
        Scheduler::get().fault("a meeting of the cluster before barrier_init_fence");
    Scheduler::get().cluster_barrier(file, line);
    for (auto& [address, barrier] : barriers_) barrier.seen = true;
  }

  const char* fault_at_end() {
    if (!copies_.empty()) return "a TMA copy is under way at the end of a cluster";
    Scheduler& scheduler = Scheduler::get();
    for (const auto& [address, barrier] : barriers_)
      if (!scheduler.block_knows(scheduler.owner(address), barrier.told))
        return "a block has ended before it knew of every arrival at its barriers";
    return "";
  }

  void arrive(const void* address) {
    Barrier& b = barrier(address);
    Scheduler::get().tell(b.told);
    if (--b.pending < 0) Scheduler::get().fault("a shared barrier gets more arrivals than it counts");
    end_phase(b);
  }

  void end_phase(Barrier& b) {
    if (b.pending != 0 || b.bytes != 0) return;
    ++b.phase;
    b.pending = b.count;
    Scheduler::get().wake();
  }

  void load(void* shared, const myops::TensorMapSpec& spec, const void* bar, const int32_t (&at)[5]) {
    Scheduler& scheduler = Scheduler::get();
    Copy copy{static_cast<char*>(shared), spec, {}, bar, int64_t(spec.box[1]) * 128};
    std::memcpy(copy.at, at, sizeof(copy.at));
    check_tile(copy);
    check_fenced(copy.target, static_cast<size_t>(copy.bytes), "tma_load");
    barrier(bar);
    const uint32_t begin = scheduler.cluster_offset(shared), end = begin + static_cast<uint32_t>(copy.bytes);
    const int rank = scheduler.owner(shared), warps = scheduler.block_warps();
    for (int w = rank * warps; w < (rank + 1) * warps; ++w)
      for (const Product& p : warps_[w].products)
        if (p.range_a.meets(begin, end) || p.range_b.meets(begin, end))
          scheduler.fault("a TMA copy overwrites operands of a wgmma in flight");
    for (const Copy& other : copies_)
      if (other.target < copy.target + copy.bytes && copy.target < other.target + other.bytes)
        scheduler.fault("a TMA copy overwrites what another one has under way");
    scheduler.poison_shared(copy.target, static_cast<size_t>(copy.bytes));
    copies_.push_back(copy);
  }

  void store(const myops::TensorMapSpec& spec, const void* shared, const int32_t (&at)[5]) {
    Scheduler& scheduler = Scheduler::get();
    Copy copy{const_cast<char*>(static_cast<const char*>(shared)), spec, {}, nullptr, int64_t(spec.box[1]) * 128};
    std::memcpy(copy.at, at, sizeof(copy.at));
    check_tile(copy);
    check_fenced(copy.target, static_cast<size_t>(copy.bytes), "tma_store");
    copy.thread = scheduler.thread();
    copy.source.assign(copy.target, copy.target + copy.bytes);
    copies_.push_back(copy);
  }

  // Whether stores of this thread have yet to read their source.
  bool stores() const {
    for (const Copy& copy : copies_)
      if (copy.thread == Scheduler::get().thread()) return true;
    return false;
  }

  // One copy under way arrives: any load, or where one must arrive and there is none, a store that is waited for.
  // Whether one did.
  bool land(bool must) {
    std::vector<size_t> loads, stores;
    for (size_t i = 0; i < copies_.size(); ++i) {
      if (copies_[i].barrier != nullptr)
        loads.push_back(i);
      else if (must && lane_of(copies_[i].thread).waits)
        stores.push_back(i);
    }
    const std::vector<size_t>& some = loads.empty() ? stores : loads;
    if (!some.empty()) land(some[Scheduler::get().random() % some.size()]);
    return !some.empty();
  }

  void land(size_t pick) {
    Scheduler& scheduler = Scheduler::get();
    const Copy copy = copies_[pick];
    copies_.erase(copies_.begin() + static_cast<std::ptrdiff_t>(pick));
    const bool store = copy.barrier == nullptr;
    const uint32_t begin = scheduler.cluster_offset(copy.target);
    const auto size = static_cast<uint32_t>(myops::element_size(copy.spec.type));
    const int rank = scheduler.owner(copy.target);
    if (store && std::memcmp(copy.target, copy.source.data(), copy.source.size()) != 0)
      return scheduler.note("shared memory changed under a TMA store");
    // A load stops at the end of a row, a store at the end of the 16 bytes where the row ends.
    const uint64_t unit = store ? 16 / size : 1;
    uint64_t end[5];
    for (int i = 0; i < 5; ++i) end[i] = i == 0 ? (copy.spec.size[0] + unit - 1) / unit * unit : copy.spec.size[i];
    for (uint32_t row = 0; row < copy.spec.box[1]; ++row)
      for (uint32_t column = 0; column < copy.spec.box[0]; ++column) {
        const int64_t at[5] = {copy.at[0] + int64_t(column), copy.at[1] + int64_t(row), copy.at[2], copy.at[3],
                               copy.at[4]};
        int64_t offset = 0;
        bool inside = true;
        for (int i = 0; i < 5; ++i) {
          inside &= at[i] >= 0 && static_cast<uint64_t>(at[i]) < end[i];
          offset += at[i] * static_cast<int64_t>(i == 0 ? size : copy.spec.stride[i - 1]);
        }
        char* const shared = scheduler.shared_pointer(swizzle(begin + row * 128 + column * size), rank);
        if (store) {
          if (inside) std::memcpy(static_cast<char*>(const_cast<void*>(copy.spec.data)) + offset, shared, size);
        } else {
          std::memset(shared, 0, size);
          if (inside) std::memcpy(shared, static_cast<const char*>(copy.spec.data) + offset, size);
          if (copy.spec.type == myops::DType::f32) {
            uint32_t bits;
            std::memcpy(&bits, shared, sizeof(bits));
            bits = nearest_tf32(bits);
            std::memcpy(shared, &bits, sizeof(bits));
          }
        }
      }
    if (store) return scheduler.wake();
    scheduler.deliver_shared(copy.target, static_cast<size_t>(copy.bytes));
    Barrier& b = barrier(copy.barrier);
    b.bytes -= copy.bytes;
    end_phase(b);
  }

  Warp& warp() { return warps_[Scheduler::get().thread() / Scheduler::kWarp]; }
  Lane& lane() { return lane_of(Scheduler::get().thread()); }
  Lane& lane_of(int thread) { return warps_[thread / Scheduler::kWarp].lanes[thread % Scheduler::kWarp]; }

  template <class In, bool kAAlongK, bool kBAlongK, class Sum>
  void issue(Sum* sums, int n, uint64_t a, uint64_t b) {
    Scheduler& scheduler = Scheduler::get();
    Warp& w = warp();
    Lane& l = lane();
    if (!l.fenced) scheduler.fault("wgmma without wgmma_fence");
    if (l.issued == w.forgotten + w.products.size()) {
      Product p;
      p.a = a, p.b = b, p.n = n, p.size = sizeof(In), p.depth = 32 / static_cast<int>(sizeof(In));
      p.run = kAAlongK && kBAlongK ? 16 : sizeof(In);  // what the swizzle keeps together
      const int step = static_cast<int>(p.run / p.size);
      const int first_row = scheduler.thread() / Scheduler::kWarp % 4 * 16;
      for (int row = 0; row < 16; ++row)
        for (int k = 0; k < p.depth; k += step)
          p.places.push_back(place(a, kAAlongK, first_row + row, k, p, p.range_a));
      for (int column = 0; column < n; ++column)
        for (int k = 0; k < p.depth; k += step) p.places.push_back(place(b, kBAlongK, column, k, p, p.range_b));
      for (const Copy& copy : copies_) {
        if (scheduler.owner(copy.target) != scheduler.rank() || copy.barrier == nullptr) continue;
        const uint32_t begin = scheduler.shared_offset(copy.target), end = begin + static_cast<uint32_t>(copy.bytes);
        if (p.range_a.meets(begin, end) || p.range_b.meets(begin, end))
          scheduler.fault("wgmma of what a TMA copy has not delivered");
      }
      p.bytes.resize(p.places.size() * p.run);
      p.values.resize(p.bytes.size() / p.size);
      for (size_t i = 0; i < p.places.size(); ++i) {
        const char* shared = scheduler.shared_pointer(p.places[i]);
        check_fenced(shared, p.run, "wgmma");
        std::memcpy(&p.bytes[i * p.run], shared, p.run);
      }
      for (size_t i = 0; i < p.values.size(); ++i) {
        In value;
        std::memcpy(&value, &p.bytes[i * sizeof(In)], sizeof(In));
        p.values[i] = widened(value);
      }
      w.products.push_back(std::move(p));
      ++wgmmas;
    } else if (w.product(l.issued).a != a || w.product(l.issued).b != b) {
      scheduler.fault("wgmma: the lanes of a warp give different descriptors");
    }
    ++l.issued;
    if (l.sums.in_flight > 0 && l.sums.registers != sums) scheduler.fault("wgmma: two sets of sums are in flight");
    if (l.sums.in_flight++ == 0) {
      l.sums.registers = sums;
      l.sums.kept.resize(static_cast<size_t>(n / 2));
      std::memcpy(l.sums.kept.data(), sums, static_cast<size_t>(n / 2) * 4);
      std::memset(static_cast<void*>(sums), 0xFF, static_cast<size_t>(n / 2) * 4);  // NaN
    }
  }

  void wait(size_t groups) {
    Scheduler& scheduler = Scheduler::get();
    scheduler.exchange(0xffffffffu, 0, "wgmma_wait");
    Warp& w = warp();
    Lane& l = lane();
    l.fenced = false;
    const int lane_index = scheduler.thread() % Scheduler::kWarp;
    while (l.groups.size() > groups) {
      for (; l.completed < l.groups.front(); ++l.completed) {
        Product& p = w.product(l.completed);
        if (!p.checked) {
          p.checked = true;
          p.range_a = p.range_b = Range();
          for (size_t i = 0; i < p.places.size(); ++i)
            if (std::memcmp(scheduler.shared_pointer(p.places[i]), &p.bytes[i * p.run], p.run) != 0)
              scheduler.fault("shared memory changed under a wgmma in flight");
          p.places = {};
          p.bytes = {};
        }
        // Of eight columns a lane has two neighbours, in two rows.
        for (int i = 0; i < p.n / 2; i += 4) {
          const int row = lane_index / 4, column = i * 2 + lane_index % 4 * 2;
          const double* const a0 = &p.values[static_cast<size_t>(row * p.depth)];
          const double* const a1 = a0 + 8 * p.depth;
          const double* const b0 = &p.values[static_cast<size_t>((16 + column) * p.depth)];
          const double* const b1 = b0 + p.depth;
          double products[4] = {};
          for (int k = 0; k < p.depth; ++k) {
            products[0] += a0[k] * b0[k];
            products[1] += a0[k] * b1[k];
            products[2] += a1[k] * b0[k];
            products[3] += a1[k] * b1[k];
          }
          for (int j = 0; j < 4; ++j) add_to(l.sums.kept[static_cast<size_t>(i + j)], products[j], p.size == 1);
        }
        if (--l.sums.in_flight == 0)
          std::memcpy(l.sums.registers, l.sums.kept.data(), l.sums.kept.size() * sizeof(uint32_t));
      }
      l.groups.pop_front();
    }
    w.forget();
  }

 private:
  static bool of_this_block(const void* shared) { return Scheduler::get().owner(shared) == Scheduler::get().rank(); }

  static void check_fenced(const void* shared, size_t bytes, const char* what) {
    if (!Scheduler::get().is_fenced(shared, bytes))
      Scheduler::get().fault(std::string(what) + " without async_proxy_fence of the thread that wrote");
  }
  static void check_tile(const Copy& copy) {
    Scheduler& scheduler = Scheduler::get();
    scheduler.check_begun();
    scheduler.cluster_offset(copy.target + copy.bytes - 1);
    if (scheduler.cluster_offset(copy.target) % 1024 != 0)
      scheduler.fault("a TMA copy: the tile is not 1024 bytes aligned");
  }

  static void add_to(uint32_t& sum, double products, bool integers) {
    if (integers) {
      sum += static_cast<uint32_t>(static_cast<int64_t>(products));
    } else {
      float value;
      std::memcpy(&value, &sum, sizeof(value));
      value = static_cast<float>(value + products);
      std::memcpy(&sum, &value, sizeof(value));
    }
  }

  static float widened(__nv_bfloat16 x) { return __bfloat162float(x); }
  static float widened(__half x) { return __half2float(x); }
  static float widened(float x) { return first_bits_of_tf32(x); }
  static float widened(int8_t x) { return x; }
  static float widened(uint8_t x) { return x; }

  // Where a descriptor has the element (line, k).
  static uint32_t place(uint64_t descriptor, bool along_k, int line, int k, const Product& p, Range& range) {
    if (descriptor >> 62 != 1) Scheduler::get().fault("wgmma: the descriptor's swizzle is not that of 128 bytes");
    const auto field = [&](int shift) { return static_cast<uint32_t>(descriptor >> shift & 0x3fff) << 4; };
    const uint32_t start = field(0), leading = field(16), stride = field(32);
    const auto l = static_cast<uint32_t>(line), d = static_cast<uint32_t>(k);
    const uint32_t logical = along_k ? l % 8 * 128 + l / 8 * stride + d * p.size
                                     : l % 64 * 2 + l / 64 * leading + d % 8 * 128 + d / 8 * stride;
    const uint32_t at = swizzle(start + logical);
    range.begin = at < range.begin ? at : range.begin;
    range.end = at + p.run > range.end ? at + p.run : range.end;
    return at;
  }

  uint64_t block_ = 0;
  std::map<const void*, Barrier> barriers_;
  std::vector<Copy> copies_;
  Warp warps_[Scheduler::kMaxThreads / Scheduler::kWarp];
};

}  // namespace emulation

namespace myops {

inline void barrier_init(SharedBarrier* barrier, int count) { emulation::Hopper::get().init(barrier, count); }
inline void barrier_init_fence(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  if (!emulation::left_out("barrier_init_fence", file, line)) emulation::Hopper::get().fence_initialisations();
}

inline void barrier_arrive(SharedBarrier* barrier, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  if (!emulation::left_out("barrier_arrive", file, line)) emulation::Hopper::get().arrive(barrier);
}
inline void barrier_arrive_expect(SharedBarrier* barrier, int bytes, const char* file = __builtin_FILE(),
                                  int line = __builtin_LINE()) {
  if (emulation::left_out("barrier_arrive", file, line)) return;
  emulation::Hopper::get().barrier(barrier).bytes += bytes;
  emulation::Hopper::get().arrive(barrier);
}
inline void barrier_wait(SharedBarrier* barrier, uint32_t parity, const char* file = __builtin_FILE(),
                         int line = __builtin_LINE()) {
  if (emulation::left_out("barrier_wait", file, line)) return;
  while ((emulation::Hopper::get().barrier(barrier).phase & 1) == parity)
    emulation::Scheduler::get().sleep("a shared barrier", file, line);
  emulation::Scheduler::get().learn(emulation::Hopper::get().barrier(barrier).told);
}

inline void tma_load(void* shared, const TensorMap* map, SharedBarrier* barrier, const int32_t (&at)[5]) {
  emulation::Hopper::get().load(shared, map->spec, barrier, at);
}

inline void tma_load_multicast(void* shared, const TensorMap* map, SharedBarrier* barrier, const int32_t (&at)[5]) {
  auto& scheduler = emulation::Scheduler::get();
  for (int rank = 0; rank < scheduler.cluster(); ++rank)
    emulation::Hopper::get().load(scheduler.shared_pointer(scheduler.shared_offset(shared), rank), map->spec,
                                  scheduler.shared_pointer(scheduler.shared_offset(barrier), rank), at);
}
inline void tma_store(const TensorMap* map, const void* shared, const int32_t (&at)[5]) {
  emulation::Hopper::get().store(map->spec, shared, at);
}
inline void tma_store_wait(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  if (emulation::left_out("tma_store_wait", file, line)) return;
  auto& hopper = emulation::Hopper::get();
  hopper.lane().waits = true;
  while (hopper.stores()) emulation::Scheduler::get().sleep("a TMA store", file, line);
  hopper.lane().waits = false;
}
inline void async_proxy_fence(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  if (!emulation::left_out("async_proxy_fence", file, line)) emulation::Scheduler::get().fence_proxy();
}

inline int computed_here(int x) { return x; }
inline void tma_prefetch(const TensorMap*, const int32_t (&)[5]) {}
inline void prefetch_map(const TensorMap* map) {
  if (map->spec.box[0] == 0) emulation::Scheduler::get().fault("a prefetch of no map");
}

inline uint32_t cluster_rank() { return static_cast<uint32_t>(emulation::Scheduler::get().rank()); }
inline void cluster_sync(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  if (!emulation::left_out("cluster_sync", file, line)) emulation::Hopper::get().meet(file, line);
}
inline void barrier_arrive_at(SharedBarrier* barrier, uint32_t rank, const char* file = __builtin_FILE(),
                              int line = __builtin_LINE()) {
  auto& scheduler = emulation::Scheduler::get();
  if (emulation::left_out("barrier_arrive_at", file, line)) return;
  emulation::Hopper::get().arrive(scheduler.shared_pointer(scheduler.shared_offset(barrier), static_cast<int>(rank)));
}

inline void wgmma_fence(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  if (!emulation::left_out("wgmma_fence", file, line)) emulation::Hopper::get().lane().fenced = true;
}
inline void wgmma_commit(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  auto& lane = emulation::Hopper::get().lane();
  if (!emulation::left_out("wgmma_commit", file, line)) lane.groups.push_back(lane.issued);
}
template <int kGroups, int kCount, class Sum>
void wgmma_wait(Sum (&)[kCount], const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  if (!emulation::left_out("wgmma_wait", file, line)) emulation::Hopper::get().wait(kGroups);
}

template <int kRegisters>
void registers_increase() {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256, "what setmaxnreg takes");
}
template <int kRegisters>
void registers_decrease() {
  registers_increase<kRegisters>();
}

template <class In, int kN, bool kAAlongK, bool kBAlongK>
struct Wgmma {
  using Sum = std::conditional_t<sizeof(In) == 1, uint32_t, float>;
  static void add(Sum (&sums)[kN / 2], uint64_t a, uint64_t b) {
    static_assert(sizeof(In) == 2 || (kAAlongK && kBAlongK), "only 16-bit elements have operands along their lines");
    emulation::Hopper::get().issue<In, kAAlongK, kBAlongK>(sums, kN, a, b);
  }
};

}  // namespace myops
