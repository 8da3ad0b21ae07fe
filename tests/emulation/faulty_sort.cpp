// kernels/cuda/sparse/sort.cu with one of its barriers taken out: the emulation must find each one missing.
//
// The build compiles this file with -Dmyops=myops_faulty, so that its kernels are not the real ones.
#include <algorithm>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace {

int skipped = -1;                                // which barrier, in the order of file and line, to leave out
std::set<std::pair<std::string, int>> barriers;  // those met so far

void planted_barrier(const char* file, int line) {
  const auto place = barriers.emplace(file, line).first;
  if (std::distance(barriers.begin(), place) != skipped) emulation::Scheduler::get().barrier(file, line);
}

using Held = std::vector<std::unique_ptr<char[]>>;

}  // namespace

#undef __syncthreads
#define __syncthreads() planted_barrier(__FILE__, __LINE__)
#include "../../kernels/cuda/sparse/sort.cu"

// Sorts 10000 keys of 12 bits without barrier `barrier` (-1: with all). Returns the fault's text, "" for none.
extern "C" __attribute__((visibility("default"))) const char* emulation_faulty_sort(int barrier) {
  using namespace myops;
  static std::string message;
  skipped = barrier;
  Held held;
  SparseSession session;
  session.cookie = &held;
  session.allocate = [](void* cookie, int64_t bytes) -> void* {
    static_cast<Held*>(cookie)->emplace_back(new char[bytes]);
    return static_cast<Held*>(cookie)->back().get();
  };
  std::vector<uint32_t> keys(10000), sorted(keys.size()), order(keys.size());
  for (size_t i = 0; i < keys.size(); ++i) keys[i] = static_cast<uint32_t>(i * 2654435761u) >> 20;
  const cudaError_t error =
      launch_sort(keys.data(), static_cast<int64_t>(keys.size()), 12, sorted.data(), order.data(), session);
  message = error == cudaSuccess ? "" : cudaGetErrorString(error);
  for (size_t i = 0; i < keys.size() && message.empty(); ++i) {
    const bool right = order[i] < keys.size() && keys[order[i]] == sorted[i];
    const bool after = i == 0 || sorted[i - 1] < sorted[i] || (sorted[i - 1] == sorted[i] && order[i - 1] < order[i]);
    if (!right || !after) message = "a wrong order";
  }
  return message.c_str();
}

extern "C" __attribute__((visibility("default"))) int emulation_barriers_of_sort() {
  return static_cast<int>(barriers.size());
}
