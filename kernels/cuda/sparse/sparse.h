// The launchers of the sparse products: plain C++ over the problems of ../../sparse_view.h, without torch.
//
// A launcher enqueues kernels on the session's stream and allocates through the session only. Products (spmm, extremum,
// sddmm), transposes and compress_rows wait for nothing. spgemm waits twice: how many rows of each length there are,
// and how many entries the result has, are known on the device only; a third time where B has so many columns that rows
// are sorted, and rows have more products than a block sorts. Its backward waits once.
//
// Findings. Kernels look at every index before they read through it. What is wrong they set in session.findings, a word
// of bits (1 << Status) on the device, and go on with what is in range; the caller reads the word and raises. Where
// session.findings is nullptr nobody would read it, and the kernel stops the grid instead: an error at the next
// synchronisation, as torch's own indexing kernels do.
#pragma once
#include "../../sparse_view.h"
#include "../launch.h"

namespace myops {

// For functions that return the first error of what they call.
#define MYOPS_CUDA_TRY(...)                             \
  do {                                                  \
    const cudaError_t myops_error = (__VA_ARGS__);      \
    if (myops_error != cudaSuccess) return myops_error; \
  } while (0)

constexpr int64_t kMostColumns = 0xffffffff;  // of A in products, whose kernels keep their numbers in 32 bits

struct SparseSession {
  cudaStream_t stream = nullptr;
  bool early = false;  // launch_kernel_early can
  unsigned* findings = nullptr;
  // Memory on the device until the call returns, or until `release` gives back all that came after the first `kept`.
  void* (*allocate)(void* cookie, int64_t bytes) = nullptr;
  int64_t (*allocated)(void* cookie) = nullptr;
  void (*release)(void* cookie, int64_t kept) = nullptr;
  void* cookie = nullptr;

  template <class T>
  T* array(int64_t count) const {
    return static_cast<T*>(allocate(cookie, (count > 0 ? count : 1) * static_cast<int64_t>(sizeof(T))));
  }
};

// Gives back what was allocated since it was made; kernels that use it may still be waiting in the stream.
struct SparseScope {
  const SparseSession& session;
  const int64_t kept;
  explicit SparseScope(const SparseSession& s) : session(s), kept(s.allocated(s.cookie)) {}
  SparseScope(const SparseScope&) = delete;
  ~SparseScope() { session.release(session.cookie, kept); }
};

cudaError_t launch_spmm(const Spmm& problem, const SparseSession& session);
cudaError_t launch_extremum(const Extremum& problem, const SparseSession& session);
cudaError_t launch_sddmm(const Sddmm& problem, const SparseSession& session);
cudaError_t launch_transpose(const Transpose& problem, const SparseSession& session);
cudaError_t launch_compress_rows(const CompressRows& problem, const SparseSession& session);

// The findings have to be read: both wait for them before they go on. `status`: what was found.
cudaError_t launch_spgemm(const Spgemm& problem, const SpgemmSink& sink, const SparseSession& session, Status* status);
cudaError_t launch_spgemm_backward(const SpgemmBackward& problem, const SparseSession& session, Status* status);

// Waits for the stream and reads the findings.
cudaError_t read_findings(const SparseSession& session, Status* status);

// The families of spmm.cuh and sddmm.cuh, one translation unit each; defined for the dtypes that the name says.
cudaError_t launch_spmm_float(const Spmm& problem, const SparseSession& session);    // 16 and 32 bits
cudaError_t launch_spmm_wide(const Spmm& problem, const SparseSession& session);     // float64 and complex
cudaError_t launch_spmm_integer(const Spmm& problem, const SparseSession& session);  // of every width
cudaError_t launch_sddmm_float(const Sddmm& problem, const SparseSession& session);
cudaError_t launch_sddmm_wide(const Sddmm& problem, const SparseSession& session);
cudaError_t launch_sddmm_integer(const Sddmm& problem, const SparseSession& session);

}  // namespace myops
