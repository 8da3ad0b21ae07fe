// kernels/cuda/async_copy.cuh on a CPU. A copy lands as late as the machine may let it: at the wait that covers it.
// Until then its destination is poison that counts as never written, so a missing wait or barrier is a fault.
//
// Included by cuda_emulation.h.
#pragma once
#include <deque>
#include <vector>

namespace emulation {

struct AsyncCopy {
  void* shared;
  const void* global;
  int size, bytes;  // those that are written, those of them that are read
};

// The copies of one thread under way, oldest group first; the last group is still open.
struct AsyncGroups {
  uint64_t block = 0;
  std::deque<std::vector<AsyncCopy>> groups{1};

  static AsyncGroups& mine() {
    static AsyncGroups all[Scheduler::kMaxThreads];
    AsyncGroups& groups = all[Scheduler::get().thread()];
    if (groups.block != Scheduler::get().block_number()) {
      groups.groups.assign(1, {});
      groups.block = Scheduler::get().block_number();
    }
    return groups;
  }
};

}  // namespace emulation

namespace myops {

template <int kSize>
void async_copy(void* shared, const void* global, int bytes, const char* file = __builtin_FILE(),
                int line = __builtin_LINE()) {
  static_assert(kSize == 4 || kSize == 8 || kSize == 16, "what cp.async copies");
  auto& scheduler = emulation::Scheduler::get();
  if (bytes < 0 || bytes > kSize) scheduler.fault("async_copy of a number of bytes that is not 0 .. its size");
  scheduler.check_aligned(global, kSize);
  scheduler.check_shared(shared, kSize, true, file, line);
  scheduler.poison_shared(shared, kSize);
  emulation::AsyncGroups::mine().groups.back().push_back({shared, global, kSize, bytes});
}

inline void async_copy16(void* shared, const void* global, int bytes, const char* file = __builtin_FILE(),
                         int line = __builtin_LINE()) {
  async_copy<16>(shared, global, bytes, file, line);
}

inline void async_commit() { emulation::AsyncGroups::mine().groups.emplace_back(); }

template <int kGroups>
void async_wait(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  if (emulation::left_out("async_wait", file, line)) return;
  auto& groups = emulation::AsyncGroups::mine().groups;
  while (groups.size() > kGroups + 1) {
    for (const emulation::AsyncCopy& copy : groups.front()) {
      emulation::Scheduler::get().check_shared(copy.shared, static_cast<size_t>(copy.size), true, file, line);
      std::memset(copy.shared, 0, static_cast<size_t>(copy.size));
      std::memcpy(copy.shared, copy.global, static_cast<size_t>(copy.bytes));
    }
    groups.pop_front();
  }
}

}  // namespace myops
