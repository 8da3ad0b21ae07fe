// Runs one grid of a CUDA kernel on a CPU: every thread of a block is a fiber, and one fiber runs at a time.
//
// Not here: the names of the CUDA language (cuda_emulation.h). Not modelled: time, caches, weak ordering of global
// memory, warps in lockstep, several blocks at once but for those of a cluster, whose threads take turns like those of
// one block and have a shared memory for each block.
//
// The scheduler picks blocks and ready fibers in an order drawn from a seed; a fiber runs until it waits at a barrier
// or a warp collective. So a kernel that lacks a barrier meets one thread that is far ahead of the others. On top of
// that, every access through shared_load and shared_store is checked against a shadow of each byte:
//
//   never written in this block                            -> "read before it was written"
//   written by another thread, with no barrier in between  -> "race"
//   read by another thread, with no barrier in between, and now written -> "race"
//
// Barriers in shared memory (hopper.h) order what a warp did before it arrived and what one does that waited: each has
// a clock, which says how much of every warp's time it knows of.
//
// which finds a missing barrier in whichever order the threads run. Accesses that bypass shared_load still meet the
// poison (0xFF, a NaN in every float format) that shared memory is filled with before every block. A barrier that some
// threads skip, two barriers waited at together, and a collective that never completes are faults too; so is a thread
// of a kernel launched early that meets global memory (load_pack, a copy, TMA) before it waits for the kernel in front
// of it, or never waits. A fault ends the grid; its message is the error string of the launch.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace emulation {

struct Dim3 {
  unsigned x, y, z;
  constexpr Dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline Dim3 thread_index, block_index, block_size, grid_size;

struct Fault {};  // unwinds one fiber

// A planted bug: one call of a synchronising function, told by its place in the source, does nothing. The places that a
// run meets are kept, so that a test can leave out each of them in turn.
struct LeftOut {
  using Place = std::pair<std::string, int>;  // file, line

  std::map<std::string, std::set<Place>> met;  // by the name of the function
  std::string call;
  Place place;

  bool operator()(const char* name, const char* file, int line) {
    const Place here(file, line);
    met[name].insert(here);
    return call == name && place == here;
  }
};
inline LeftOut left_out;

class Scheduler {
 public:
  static constexpr size_t kMaxShared = 227 * 1024, kMaxStaticShared = 48 * 1024, kStackBytes = 128 * 1024;
  static constexpr int kMaxThreads = 1536, kWarp = 32, kMaxCluster = 4;  // kMaxThreads: of all blocks of a cluster
  using Clock = std::array<uint32_t, kMaxThreads / kWarp>;

  static Scheduler& get() {
    static Scheduler scheduler;
    return scheduler;
  }

  void set_seed(uint64_t seed) { random_ = seed * 2 + 1; }

  // Runs body(argument) in every thread of the grid. Returns the message of the first fault, or an empty string.
  // shared_limit: of dynamic and static bytes together. cluster: neighbours along x that run together. early: the
  // kernel before this one may still run until a thread calls begin().
  std::string run_grid(Dim3 grid, Dim3 block, size_t dynamic_bytes, size_t shared_limit, void (*body)(void*),
                       void* argument, int cluster = 1, bool early = false) {
    std::lock_guard<std::mutex> lock(mutex_);
    fault_.clear();
    grid_size = grid, block_size = block;
    body_ = body, argument_ = argument;
    dynamic_bytes_ = dynamic_bytes, shared_limit_ = shared_limit;
    cluster_ = cluster, early_ = early;
    block_threads_ = static_cast<int>(block.x * block.y * block.z);
    threads_ = cluster * block_threads_;
    const uint64_t across = grid.x / static_cast<unsigned>(cluster), clusters = across * grid.y * grid.z;
    // A random walk over all clusters: first + i * stride, with a stride that shares no factor with their number.
    const uint64_t first = next_random() % clusters;
    uint64_t stride = next_random() % clusters + 1;
    while (greatest_common_divisor(stride, clusters) != 1) ++stride;
    for (uint64_t i = 0; i < clusters && fault_.empty(); ++i) {
      const uint64_t c = (first + static_cast<unsigned __int128>(i) * stride) % clusters;
      first_block_ = Dim3(static_cast<unsigned>(c % across) * static_cast<unsigned>(cluster),
                          static_cast<unsigned>(c / across % grid.y), static_cast<unsigned>(c / across / grid.y));
      run_cluster();
    }
    return fault_;
  }

  int thread() const { return current_; }  // counted through the cluster
  int rank() const { return current_ / block_threads_; }
  int cluster() const { return cluster_; }
  int block_warps() const { return (block_threads_ + kWarp - 1) / kWarp; }
  uint64_t block_number() const { return clusters_run_; }  // tells clusters apart, over all grids

  [[noreturn]] void fault(const std::string& message) {
    if (fault_.empty()) {
      std::ostringstream text;
      text << message << " (thread " << current_ << " of block " << block_index.x << "," << block_index.y << ","
           << block_index.z << ")";
      fault_ = text.str();
    }
    throw Fault{};
  }

  // A fault that no thread is to blame for.
  void note(const std::string& message) { record(message); }

  // ---- Synchronisation -------------------------------------------------------------------------------------------

  void barrier(const char* file, int line) { wait_at(State::at_barrier, "barrier", file, line); }
  // Waits for all threads of the cluster, whose accesses are in no order.
  void cluster_barrier(const char* file, int line) {
    wait_at(State::at_cluster_barrier, "cluster_barrier", file, line);
  }

  // Gives `value` to the lanes of `mask` and returns the 32 values given; all lanes of the mask must come.
  const uint64_t* exchange(unsigned mask, uint64_t value, const char* name, bool orders_memory = false) {
    const int lane = current_ % kWarp;
    Warp& warp = warps_[current_ / kWarp];
    if (!(mask >> lane & 1)) fault(std::string(name) + ": the calling lane is not in its mask");
    if (warp.arrived != 0 && warp.mask != mask) fault(std::string(name) + ": lanes of a warp give different masks");
    warp.mask = mask;
    warp.arrived |= 1u << lane;
    const unsigned turn = warp.turn;
    warp.values[turn % 2][lane] = value;
    if (warp.arrived == mask) {
      warp.arrived = 0;
      ++warp.turn;
      if (orders_memory) ++warp.epoch;
      for (int i = 0; i < kWarp; ++i) {
        const int t = current_ - lane + i;
        if (t < threads_ && states_[t] == State::in_warp) make_ready(t);
      }
    } else {
      states_[current_] = State::in_warp;
      fibers_[current_].file = name, fibers_[current_].line = 0;
      suspend();
    }
    return warp.values[turn % 2];
  }

  // Waits until someone calls wake(); for conditions that the caller looks at again.
  void sleep(const char* what, const char* file, int line) {
    Fiber& fiber = fibers_[current_];
    states_[current_] = State::asleep;
    fiber.what = what, fiber.file = file, fiber.line = line;
    suspend();
  }

  void wake() {
    for (int t = 0; t < threads_; ++t)
      if (states_[t] == State::asleep) make_ready(t);
  }

  // What else goes on during this block. `step` is called when no thread can move, in every other block at random
  // times too, and says whether anything happened; `end` says what is wrong with the state that the block
  // leaves, or "".
  void set_idle(bool (*step)(bool must), const char* (*end)()) { idle_ = step, end_ = end; }

  uint64_t random() { return next_random(); }
  uint32_t epoch() const { return epoch_; }  // changes when threads pass a barrier

  // ---- Shared memory ---------------------------------------------------------------------------------------------

  // Storage of one statically declared object, the same for all threads of a block. `key` tells objects apart.
  void* static_shared(const void* key, size_t bytes, size_t alignment) {
    for (const Static& s : statics_)
      if (s.key == key) return memory(rank()) + s.offset;
    const size_t offset = (shared_used_ + alignment - 1) / alignment * alignment;
    static_bytes_ += bytes;
    if (static_bytes_ > kMaxStaticShared) fault("more than 48 KB of static shared memory");
    if (dynamic_bytes_ + static_bytes_ > shared_limit_ || offset + bytes > kMaxShared)
      fault("more shared memory than the launch asked for, or the device has");
    statics_.push_back({key, offset});
    shared_used_ = offset + bytes;
    return memory(rank()) + offset;
  }

  // Offsets are within the shared memory of a block: that of the thread, or of any block of the cluster.
  uint32_t shared_offset(const void* address) { return offset_in(rank(), address); }
  uint32_t cluster_offset(const void* address) { return offset_in(owner(address), address); }
  int owner(const void* address) const {
    const auto at = static_cast<size_t>(static_cast<const char*>(address) - memory_.get());
    return at / kMaxShared < static_cast<size_t>(cluster_) ? static_cast<int>(at / kMaxShared) : 0;
  }
  char* shared_pointer(uint32_t offset) { return shared_pointer(offset, rank()); }
  char* shared_pointer(uint32_t offset, int rank) {
    if (offset >= shared_used_) fault("an offset outside shared memory");
    return memory(rank) + offset;
  }

  void* dynamic_shared() {
    if (dynamic_bytes_ == 0) fault("the launch gave no dynamic shared memory");
    return memory(rank());
  }

  // Every thread of a kernel that is launched early comes here, before it touches global memory.
  void begin() { fibers_[static_cast<size_t>(current_)].begun = true; }
  void check_begun() {
    if (early_ && !fibers_[static_cast<size_t>(current_)].begun)
      fault("global memory is touched before wait_for_previous_kernel");
  }

  void check_aligned(const void* address, size_t bytes) {
    check_begun();
    if (reinterpret_cast<uintptr_t>(address) % bytes != 0) fault("misaligned access to global memory");
  }

  void check_shared(const void* address, size_t bytes, bool write, const char* file, int line) {
    const char* begin = static_cast<const char*>(address);
    if (begin < memory(rank()) || begin + bytes > memory(rank()) + shared_used_)
      shared_fault("access outside shared memory", address, file, line);
    if (reinterpret_cast<uintptr_t>(address) % (bytes & -bytes) != 0)
      shared_fault("misaligned access to shared memory", address, file, line);
    const uint32_t now = stamp();
    const Clock& known = warps_[current_ / kWarp].known;
    Shadow* shadow = shadow_.get() + (begin - memory_.get());
    if (write) mark_stored(begin, bytes, true);
    for (size_t i = 0; i < bytes; ++i) {
      Shadow& s = shadow[i];
      if (!of_this_block(s.writer) && !write)
        shared_fault("shared memory is read before it was written", begin + i, file, line);
      if (of_this_block(s.writer) && !in_order(s.writer, now, known))
        shared_fault(write ? "race: two threads write" : "race: one thread writes, another reads", begin + i, file,
                     line);
      if (write) {
        if (of_this_block(s.reader) && !in_order(s.reader, now, known))
          shared_fault("race: one thread reads, another writes", begin + i, file, line);
        s.writer = now;
      } else {
        const bool alone = !of_this_block(s.reader) || in_order(s.reader, now, known);
        s.reader = alone ? now : stamp_of_several(s.reader, now);
      }
    }
  }

  // Orders what this thread wrote before what TMA and wgmma do with it later; whether all of these bytes are so
  // ordered.
  void fence_proxy() { ++fences_[current_]; }
  bool is_fenced(const void* address, size_t bytes) const {
    if (!is_stored(static_cast<const char*>(address), bytes)) return true;
    const Shadow* shadow = shadow_.get() + (static_cast<const char*>(address) - memory_.get());
    for (size_t i = 0; i < bytes; ++i)
      if (of_this_block(shadow[i].writer))
        if (const Stamp& w = at(shadow[i].writer); w.thread >= 0 && w.fences == fences_[w.thread]) return false;
    return true;
  }

  // What is under way to these bytes has not arrived: until they are written, reading them is a fault.
  void poison_shared(void* address, size_t bytes) {
    std::memset(address, 0xFF, bytes);
    Shadow* shadow = shadow_.get() + (static_cast<char*>(address) - memory_.get());
    for (size_t i = 0; i < bytes; ++i) shadow[i].writer = 0;
  }
  // It has arrived, in order with every thread that learns so from a barrier of another kind than __syncthreads.
  void deliver_shared(void* address, size_t bytes) {
    Shadow* shadow = shadow_.get() + (static_cast<char*>(address) - memory_.get());
    for (size_t i = 0; i < bytes; ++i) shadow[i] = {first_stamp_, 0};
    mark_stored(static_cast<char*>(address), bytes, false);
  }

  // What this thread's warp did and knows of, to whoever learns it; and what others told.
  void tell(Clock& clock) {
    Warp& warp = warps_[current_ / kWarp];
    warp.known[static_cast<size_t>(current_ / kWarp)] = warp.time++;
    join(clock, warp.known);
  }
  void learn(const Clock& clock) { join(warps_[current_ / kWarp].known, clock); }
  // Whether the warps of a block know all of it together.
  bool block_knows(int rank, const Clock& clock) const {
    Clock known = {}, with = clock;
    for (int w = rank * block_warps(); w < (rank + 1) * block_warps(); ++w) join(known, warps_[w].known);
    join(with, known);
    return with == known;
  }

 private:
  enum class State : char { ready, at_barrier, at_cluster_barrier, in_warp, asleep, finished };

  using Jump = void* [5];  // of __builtin_setjmp: swapcontext makes two system calls, longjmp looks for handlers

  struct Fiber {
    ucontext_t start;  // enters fiber_main on the fiber's own stack
    Jump resume;       // where it waits
    std::unique_ptr<char[]> stack;
    bool started = false;                          // suspended inside its loop, ready to be resumed for another block
    bool begun = false;                            // in this block
    uint32_t stamp = 0, stamp_of_several[2] = {};  // the last ones that it made
    const char *what = "", *file = "";
    int line = 0;
  };

  struct Warp {
    unsigned mask = 0, arrived = 0, turn = 0;
    uint32_t epoch = 0;
    uint64_t values[2][kWarp];
    uint32_t time = 1;  // the next that it tells of
    Clock known = {};
  };

  static void join(Clock& clock, const Clock& other) {
    for (size_t i = 0; i < clock.size(); ++i) clock[i] = clock[i] < other[i] ? other[i] : clock[i];
  }

  struct Stamp {  // who touched a byte, and after which barriers
    int16_t thread, warp;
    uint32_t epoch, warp_epoch, time;
    uint32_t fences;  // of the thread, before

    bool operator==(const Stamp& s) const {
      return thread == s.thread && warp == s.warp && epoch == s.epoch && warp_epoch == s.warp_epoch && time == s.time &&
             fences == s.fences;
    }
    bool before(const Stamp& now, const Clock& known) const {
      return epoch != now.epoch || (thread == now.thread && thread >= 0) ||
             (warp == now.warp && warp_epoch != now.warp_epoch) ||
             (warp >= 0 && warp != now.warp && time <= known[static_cast<size_t>(warp)]);
    }
  };

  // Of a byte, as numbers of stamps: many bytes have the same. Those of earlier blocks are below first_stamp_, which
  // itself is that of what copies deliver.
  struct Shadow {
    uint32_t writer = 0, reader = 0;
  };

  bool of_this_block(uint32_t stamp) const { return stamp >= first_stamp_; }
  const Stamp& at(uint32_t stamp) const { return stamps_[stamp - first_stamp_]; }
  bool in_order(uint32_t stamp, uint32_t now, const Clock& known) const {
    return stamp == now || at(stamp).before(at(now), known);
  }
  // The number of a stamp, which perhaps is still `last`.
  uint32_t number(const Stamp& stamp, uint32_t& last) {
    if (of_this_block(last) && at(last) == stamp) return last;
    stamps_.push_back(stamp);
    return last = first_stamp_ + static_cast<uint32_t>(stamps_.size() - 1);
  }
  uint32_t stamp() {
    const int w = current_ / kWarp;
    const Warp& warp = warps_[w];
    return number(
        {static_cast<int16_t>(current_), static_cast<int16_t>(w), epoch_, warp.epoch, warp.time, fences_[current_]},
        fibers_[current_].stamp);
  }
  // Several readers with no barrier between them are kept as one that is in order with none of them.
  uint32_t stamp_of_several(uint32_t others, uint32_t now) {
    Stamp several = at(now);
    several.thread = -1, several.fences = 0;
    if (at(others).warp != several.warp) several.warp = -1;
    return number(several, fibers_[current_].stamp_of_several[several.warp < 0]);
  }
  void forget_stamps() {
    first_stamp_ += static_cast<uint32_t>(stamps_.size());
    if (first_stamp_ > UINT32_MAX / 2) {  // no block has as many
      std::fill_n(shadow_.get(), kMaxCluster * kMaxShared, Shadow());
      for (Fiber& fiber : fibers_) fiber.stamp = fiber.stamp_of_several[0] = fiber.stamp_of_several[1] = 0;
      first_stamp_ = 1;
    }
    stamps_.assign(1, {-1, -1, block_epoch_, 0, 0, 0});
  }

  // Whether a thread has written to any of these bytes since a copy was delivered there: most operands of a wgmma are a
  // copy's. Kept for each line of 16 bytes.
  static constexpr size_t kLine = 16;
  void mark_stored(const char* begin, size_t bytes, bool stored) {
    const auto at = static_cast<size_t>(begin - memory_.get());
    std::memset(&stored_[at / kLine], stored, (at + bytes - 1) / kLine - at / kLine + 1);
  }
  bool is_stored(const char* begin, size_t bytes) const {
    const auto at = static_cast<size_t>(begin - memory_.get());
    for (size_t line = at / kLine; line <= (at + bytes - 1) / kLine; ++line)
      if (stored_[line]) return true;
    return false;
  }

  struct Static {
    const void* key;
    size_t offset;
  };

  static constexpr size_t kGuard = 256;  // poison after the shared memory in use, to find stray writes

  Scheduler()
      : fibers_(kMaxThreads),
        states_(kMaxThreads, State::finished),
        memory_(static_cast<char*>(::operator new(kMaxCluster * kMaxShared + kGuard, std::align_val_t(1024)))),
        shadow_(new Shadow[kMaxCluster * kMaxShared]),
        stored_(new bool[kMaxCluster * kMaxShared / kLine]()) {}

  struct AlignedDelete {
    void operator()(char* p) const { ::operator delete(p, std::align_val_t(1024)); }
  };

  static uint64_t greatest_common_divisor(uint64_t a, uint64_t b) {
    return b == 0 ? a : greatest_common_divisor(b, a % b);
  }

  char* memory(int rank) { return memory_.get() + static_cast<size_t>(rank) * kMaxShared; }

  uint32_t offset_in(int rank, const void* address) {
    const char* p = static_cast<const char*>(address);
    if (p < memory(rank) || p >= memory(rank) + shared_used_) fault("an address outside shared memory");
    return static_cast<uint32_t>(p - memory(rank));
  }

  uint64_t next_random() {  // splitmix64
    uint64_t z = random_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }

  [[noreturn]] void shared_fault(const char* what, const void* address, const char* file, int line) {
    std::ostringstream text;
    text << what << ", byte " << static_cast<const char*>(address) - memory(rank()) << " of " << shared_used_ << ", at "
         << file << ":" << line;
    fault(text.str());
  }

  void make_ready(int thread) {
    states_[thread] = State::ready;
    ready_.push_back(thread);
  }

  void wait_at(State kind, const char* name, const char* file, int line) {
    if (left_out(name, file, line)) return;
    Fiber& fiber = fibers_[current_];
    states_[current_] = kind;
    fiber.file = file, fiber.line = line;
    suspend();
  }

  [[noreturn]] __attribute__((noinline)) static void jump(Jump& to) { __builtin_longjmp(to, 1); }
  __attribute__((noinline)) void suspend() {
    if (__builtin_setjmp(fibers_[current_].resume) == 0) jump(main_);
  }

  static void fiber_main() {
    Scheduler& s = get();
    for (;;) {
      const int me = s.current_;
      try {
        s.body_(s.argument_);
        if (s.early_ && !s.fibers_[static_cast<size_t>(me)].begun)
          s.fault("a thread ends without wait_for_previous_kernel");
      } catch (const Fault&) {
      }
      s.states_[me] = State::finished;
      s.suspend();
    }
  }

  __attribute__((noinline)) void resume(int thread) {
    Fiber& fiber = fibers_[thread];
    current_ = thread;
    const unsigned t = static_cast<unsigned>(thread % block_threads_);
    block_index = first_block_;
    block_index.x += static_cast<unsigned>(rank());
    thread_index = Dim3(t % block_size.x, t / block_size.x % block_size.y, t / block_size.x / block_size.y);
    if (!fiber.started) {
      if (!fiber.stack) fiber.stack.reset(new char[kStackBytes]);
      getcontext(&fiber.start);
      fiber.start.uc_stack.ss_sp = fiber.stack.get();
      fiber.start.uc_stack.ss_size = kStackBytes;
      fiber.start.uc_link = nullptr;
      makecontext(&fiber.start, &fiber_main, 0);
    }
    if (__builtin_setjmp(main_) != 0) return;  // the fiber suspended
    if (fibers_[current_].started) jump(fibers_[current_].resume);
    fibers_[current_].started = true;
    setcontext(&fibers_[current_].start);
  }

  void run_cluster() {
    ++clusters_run_;
    block_epoch_ = epoch_ + 1, epoch_ += 2;  // the former is that of what copies deliver, before any thread's
    forget_stamps();
    statics_.clear();
    static_bytes_ = 0;
    shared_used_ = dynamic_bytes_;
    for (int r = 0; r < kMaxCluster; ++r) std::memset(memory(r), 0xFF, poisoned_);
    for (Warp& warp : warps_) warp = Warp();
    ready_.clear();
    for (int t = 0; t < threads_; ++t) make_ready(t), fibers_[t].begun = false;
    idle_ = nullptr, end_ = nullptr;
    const bool restless = next_random() % 2 == 0;
    int finished = 0;
    while (finished < threads_ && fault_.empty()) {
      while (!ready_.empty() && fault_.empty()) {
        if (restless && idle_ != nullptr && next_random() % 8 == 0) idle_(false);
        const size_t pick = next_random() % ready_.size();
        const int thread = ready_[pick];
        ready_[pick] = ready_.back();
        ready_.pop_back();
        resume(thread);
        finished += states_[thread] == State::finished;
      }
      if (finished == threads_ || !fault_.empty()) break;
      // No fiber can run. Loads arrive, then barriers open, and last what need not happen before them.
      if (idle_ != nullptr && idle_(false)) continue;
      if (release_barriers() || !fault_.empty()) continue;
      if (idle_ == nullptr || !idle_(true)) explain();
    }
    if (fault_.empty() && end_ != nullptr && *end_() != 0) record(end_());
    // Fibers that a fault left inside the kernel start afresh next time.
    for (int t = 0; t < threads_; ++t)
      if (states_[t] != State::finished) fibers_[t].started = false;
    for (int r = 0; r < cluster_; ++r)
      for (size_t i = 0; i < kGuard && fault_.empty(); ++i)
        if ((r + 1 == cluster_ || shared_used_ + i < kMaxShared) && memory(r)[shared_used_ + i] != char(0xFF))
          record("a write beyond the shared memory in use");
    poisoned_ = shared_used_ + kGuard;
  }

  // Lets the fibers of a block, or of the cluster, pass the barrier that all of them wait at.
  bool release_barriers() {
    bool released = false;
    for (int r = 0; r < cluster_; ++r)
      released |= release(State::at_barrier, "__syncthreads", r * block_threads_, (r + 1) * block_threads_);
    return released || release(State::at_cluster_barrier, "cluster_sync", 0, threads_);
  }

  // What the fibers wait for in vain.
  void explain() {
    std::ostringstream text;
    for (int t = 0; t < threads_; ++t) {
      const Fiber& f = fibers_[t];
      if (states_[t] == State::asleep) {
        text << "deadlock: threads wait for " << f.what << " at " << f.file << ":" << f.line;
        return record(text.str());
      }
    }
    for (int t = 0; t < threads_; ++t)
      if (states_[t] == State::in_warp) return record("deadlock: a warp collective waits for lanes that do not come");
    record("divergence: some threads wait at __syncthreads, others of their block at cluster_sync");
  }

  // Whether all threads from first to last wait at a barrier of this kind, and may go on.
  bool release(State kind, const char* name, int first, int last) {
    const Fiber* waiting = nullptr;
    int at_barrier = 0, finished = 0;
    bool one_place = true;
    for (int t = first; t < last; ++t) {
      const Fiber& f = fibers_[t];
      finished += states_[t] == State::finished;
      if (states_[t] != kind) continue;
      ++at_barrier;
      if (waiting != nullptr && (waiting->line != f.line || std::strcmp(waiting->file, f.file) != 0)) one_place = false;
      waiting = &f;
    }
    if (at_barrier == 0 || at_barrier + finished < last - first) return false;
    std::ostringstream text;
    text << name << ", one of them at " << waiting->file << ":" << waiting->line;
    if (finished > 0) record("divergence: some threads ended, the others wait at " + text.str());
    if (!one_place) record("divergence: threads wait at different " + text.str());
    if (!fault_.empty()) return false;
    if (kind == State::at_barrier) ++epoch_;
    for (int t = first; t < last; ++t) make_ready(t);
    return true;
  }

  void record(const std::string& message) {
    if (fault_.empty()) fault_ = message;
  }

  std::mutex mutex_;
  std::vector<Fiber> fibers_;
  std::vector<State> states_;  // of the fibers, side by side
  Warp warps_[kMaxThreads / kWarp];
  std::vector<int> ready_;
  std::vector<Static> statics_;
  std::unique_ptr<char, AlignedDelete> memory_;
  std::unique_ptr<Shadow[]> shadow_;
  std::vector<Stamp> stamps_;
  uint32_t first_stamp_ = 1;
  std::unique_ptr<bool[]> stored_;
  Jump main_;
  void (*body_)(void*) = nullptr;
  void* argument_ = nullptr;
  size_t dynamic_bytes_ = 0, shared_limit_ = 0, static_bytes_ = 0, shared_used_ = 0, poisoned_ = kMaxShared + kGuard;
  int threads_ = 0, current_ = 0, cluster_ = 1, block_threads_ = 1;
  bool early_ = false;
  uint32_t fences_[kMaxThreads] = {};  // of each thread so far
  Dim3 first_block_;
  uint32_t epoch_ = 0, block_epoch_ = 0;  // barriers passed since the start, and at the start of this block
  bool (*idle_)(bool) = nullptr;
  const char* (*end_)() = nullptr;
  uint64_t random_ = 1, clusters_run_ = 0;
  std::string fault_;
};

}  // namespace emulation
