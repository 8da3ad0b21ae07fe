// Engines on torch's threads and memory, and the questions that Python asks the library.
#include "backend.h"

#include <algorithm>
#include <atomic>
#include <new>
#include <string>
#include <vector>

#include "../native_gemm.h"
#include "gemm/dispatch.h"
#include "gemm/native.h"
#include "gemm/panels.h"
#include "sparse/scatter.h"
#include "sparse/spgemm.h"
#include "sparse/transpose.h"

extern "C" {
myops::NativeMm aoti_torch_cpu_mm_out, aoti_torch_cpu_bmm_out;
myops::NativeAddmm aoti_torch_cpu_addmm_out, aoti_torch_cpu_baddbmm_out;
}

namespace myops {
namespace {

// A task throws where memory is short, and nothing else. Thrown again here, because torch would make an error of its
// own of it, without the type. (std::exception_ptr would do for all, but ties the library to one C++ runtime.)
void parallel(int64_t tasks, void (*body)(void*, int64_t, int64_t), void* arg) {
  std::atomic<bool> no_memory{false};
  torch::stable::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    try {
      body(arg, begin, end);
    } catch (const std::bad_alloc&) {
      no_memory = true;
    }
  });
  if (no_memory) throw std::bad_alloc();
}

// Scratch from torch's allocator, so that memory profilers see it; freed when the call returns. The first bytes come
// from the stack: an allocation takes 0.2 us.
struct Scratch {
  const Tensor& like;
  std::vector<Tensor> held;
  int64_t used = 0;
  alignas(64) std::byte near[4096];

  explicit Scratch(const Tensor& t) : like(t) {}

  static void* allocate(void* cookie, int64_t bytes) {
    auto& self = *static_cast<Scratch*>(cookie);
    if (bytes <= static_cast<int64_t>(sizeof(near)) - self.used) {
      void* const place = self.near + self.used;
      self.used += (bytes + 63) / 64 * 64;
      return place;
    }
    self.held.push_back(empty(&bytes, 1, ScalarType::Byte, self.like));
    return self.held.back().data_ptr();
  }
};

cpu::Runtime runtime(Scratch& scratch) {
  cpu::Runtime rt;
  rt.threads = static_cast<int>(torch::stable::get_num_threads());
  rt.long_columns = cpu::long_columns();
  rt.parallel = &parallel;
  rt.allocate = &Scratch::allocate;
  rt.cookie = &scratch;
  return rt;
}

// The engines that gather rows work on a cut of the pattern. Below kAlone multiply-adds (5 us) a second thread costs
// more than it does.
constexpr int64_t kAlone = 1 << 13;

// Blocks in a piece at least, so that few rows are cut into segments.
constexpr int64_t kLeastBlocks = 64;

// elements: of an entry.
template <class Problem>
Status run_on_pieces(Status (*kernel)(const Problem&, const cpu::Partition&, const cpu::Runtime&),
                     const Problem& problem, const Csr& A, int64_t columns, const Tensor& like, int64_t elements = 1) {
  Scratch scratch(like);
  cpu::Runtime rt = runtime(scratch);
  if ((A.nnz + A.rows) * elements * columns < kAlone) rt.threads = 1;
  cpu::Partition pieces;
  const Status status = cpu::cut(A, rt, pieces, std::max(cpu::kPiece / elements, kLeastBlocks));
  return status == Status::ok ? kernel(problem, pieces, rt) : status;
}

constexpr NativeGemm kNative = {&aoti_torch_cpu_mm_out, &aoti_torch_cpu_bmm_out, &aoti_torch_cpu_addmm_out,
                                &aoti_torch_cpu_baddbmm_out};

// Read once, at the first call.
RouteMode mode() {
  static const RouteMode read = route_mode("MYOPS_CPU_GEMM");
  return read;
}

}  // namespace

void Cpu::run(const Gemm& problem, const Tensor& like) {
  if (choose_route(problem, mode(), cpu::engine().traits) == Route::native) return run_native(kNative, problem, like);
  Scratch scratch(like);
  const cpu::Runtime rt = runtime(scratch);
  const cpu::Engine& engine = cpu::engine();
  const Gemm g = cpu::canonical(problem, engine.traits);
  engine.gemm(g, cpu::make_plan(g, engine.traits, rt.threads), rt);
}

void Cpu::pack(const Gemm& problem, void* panels) {
  const cpu::Engine& engine = cpu::engine();
  engine.pack(problem, cpu::make_plan(problem, engine.traits, 1), panels);
}

void Cpu::run(const Add& problem, const Tensor& like) {
  Scratch scratch(like);
  cpu::engine().add(problem, runtime(scratch));
}

// A copy takes 0.5 ns an element, the gather 0.4 ns for each entry and column, both on a Zen 5. Not by threads, on
// which no sum may depend: the tiles of a gather are narrower, and sums of long rows are formed otherwise.
bool Cpu::gathers_spread(int64_t entries, int64_t rows) { return entries < rows; }

Status Cpu::run(const Spmm& p, const Tensor& like) { return run_on_pieces(cpu::engine().spmm, p, p.A, p.N, like); }

Status Cpu::run(const BlockSpmm& p, const Tensor& like) {
  return run_on_pieces(cpu::engine().block_spmm, p, p.spmm.A, p.spmm.N, like, p.height * p.width);
}

Status Cpu::run(const ScatterSpmm& p, const Tensor& like) {
  Scratch scratch(like);
  return cpu::scatter(p, runtime(scratch));
}

Status Cpu::run(const Extremum& p, const Tensor& like) {
  return run_on_pieces(cpu::engine().extremum, p, p.A, p.N, like);
}

Status Cpu::run(const Sddmm& p, const Tensor& like) { return run_on_pieces(cpu::engine().sddmm, p, p.A, p.N, like); }

Status Cpu::run(const SpmmBackward& p, const Tensor& like) {
  return run_on_pieces(cpu::engine().spmm_backward, p, p.spmm.A, p.spmm.N, like);
}

void Cpu::run(const Turn& problem, const Tensor& like) {
  Scratch scratch(like);
  cpu::engine().turn(problem, runtime(scratch));
}

Status Cpu::run(const Join& problem, const Tensor& like) {
  Scratch scratch(like);
  return cpu::join(problem, runtime(scratch));
}

Status Cpu::run(const Transpose& problem, const Tensor& like) {
  Scratch scratch(like);
  return cpu::transpose(problem, runtime(scratch));
}

Status Cpu::run(const CompressRows& problem, const Tensor& like) {
  Scratch scratch(like);
  return cpu::compress_rows(problem, runtime(scratch));
}

Status Cpu::run(const Spgemm& problem, const Tensor& like, const SpgemmSink& sink) {
  Scratch scratch(like);
  return cpu::spgemm(problem, sink, runtime(scratch));
}

Status Cpu::run(const SpgemmBackward& problem, const Tensor& like) {
  Scratch scratch(like);
  return cpu::spgemm_backward(problem, runtime(scratch));
}

}  // namespace myops

// Questions with plain C types, for ctypes. Strings live until the next call on the same thread.
extern "C" {

// The torch that the library was built against, to be found in the file even where it cannot be loaded (_libraries.py).
#define MYOPS_TEXT(x) #x
#define MYOPS_QUOTED(x) MYOPS_TEXT(x)
__attribute__((visibility("default"), used)) extern const char myops_build_torch[] =
    "myops built with torch " MYOPS_QUOTED(MYOPS_BUILD_TORCH);

// The ISA level in use; nullptr where MYOPS_ISA names one that is not available.
__attribute__((visibility("default"))) const char* myops_isa() {
  try {
    return myops::cpu::engine().traits.name;
  } catch (const std::exception&) {
    return nullptr;
  }
}

// Whose kernels products take; nullptr where MYOPS_CPU_GEMM says none of the three.
__attribute__((visibility("default"))) const char* myops_cpu_gemm() {
  try {
    return myops::kRouteModes[static_cast<int>(myops::mode())];
  } catch (const std::exception&) {
    return nullptr;
  }
}

// Every level this machine can run, best first, separated by commas.
__attribute__((visibility("default"))) const char* myops_isa_levels() {
  static const std::string names = [] {
    std::string text;
    for (const auto* e : myops::cpu::available_engines()) text += std::string(text.empty() ? "" : ",") + e->traits.name;
    return text;
  }();
  return names.c_str();
}

// The plan for a contiguous (or transposed) product of `batch` items, as one line. dtype as in DType. isa: a name.
__attribute__((visibility("default"))) const char* myops_plan(const char* isa, int dtype, int64_t batch, int64_t m,
                                                              int64_t n, int64_t k, int transpose_a, int transpose_b,
                                                              int threads, int batch_invariant) {
  thread_local std::string text;
  for (const auto& level : myops::cpu::kLevels) {
    if (std::string(level.name) != isa) continue;
    myops::Gemm g;
    g.M = m, g.N = n, g.K = k;
    g.batch_dims = batch == 1 ? 0 : 1;
    g.batch_size[0] = batch;
    g.A = {nullptr, transpose_a ? 1 : k, transpose_a ? m : 1, {m * k}, false};
    g.B = {nullptr, transpose_b ? 1 : n, transpose_b ? k : 1, {k * n}, false};
    g.D = {nullptr, n, 1, {m * n}, false};
    g.in = g.c_type = g.out = static_cast<myops::DType>(dtype);
    g.batch_invariant = batch_invariant != 0;
    const myops::Gemm c = myops::cpu::canonical(g, level);
    text = myops::cpu::make_plan(c, level, threads).text();
    if (choose_route(g, myops::RouteMode::automatic, level) == myops::Route::native) text += " route=native";
    return text.c_str();
  }
  return nullptr;
}

// The header of a weight that is packed here, 64 bytes; the size in bytes of the whole is returned.
__attribute__((visibility("default"))) int64_t myops_panels(int dtype, int64_t n, int64_t k, void* header) {
  const auto format = myops::cpu::panel_format(static_cast<myops::DType>(dtype), n, k, myops::cpu::engine().traits);
  std::memcpy(header, &format, sizeof(format));
  return format.has_size() ? format.size() : -1;
}

// GFLOP/s of one core on registers alone (the roof), for about `seconds`. dtype as in DType.
__attribute__((visibility("default"))) double myops_peak_rate(int dtype, double seconds) {
  return myops::cpu::engine().peak_rate(static_cast<myops::DType>(dtype), seconds);
}
}
