// D = X + alpha * Y for any strides and any mixture of dtypes. Not here: promotion and broadcasting (../../add.h).
//
// The sum is formed in the compute type of D: float for float32 and the 16-bit floats, double, complex, uint64_t for
// every integer (modular), bool for bool (x || y). Bound by the bytes of X, Y and D; an element that is broadcast comes
// from the caches. Four kernels, the first that takes a problem:
//   contiguous   X, Y and D of one dtype, one run of memory, 16 bytes per access; X or Y may be a value
//   turned       X, Y and D of one dtype, and the unit stride of X or of Y is not that of D: by tiles in shared memory
//   rows         X, Y and D of one dtype, by 16 bytes along the last dimension where that is aligned, else by elements
//   mixed        everything else; dtypes are switched on per element, which is uniform over the grid
#include "add_kernel.h"

#include <type_traits>
#include <utility>

#include "../element.cuh"

namespace myops {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 2147483647;  // of grid.x

// An element of dtype `type` in the compute type. Only pairs that promotion produces are exact.
template <class Compute, class From>
struct Convert {
  __device__ __forceinline__ static Compute of(From x) { return static_cast<Compute>(x); }
};
template <class T, class From>
struct Convert<Complex<T>, From> {
  __device__ __forceinline__ static Complex<T> of(From x) { return {static_cast<T>(x), T(0)}; }
};
template <class T, class From>
struct Convert<Complex<T>, Complex<From>> {
  __device__ __forceinline__ static Complex<T> of(Complex<From> x) {
    return {static_cast<T>(x.re), static_cast<T>(x.im)};
  }
};
template <class To, class From>
struct Convert<To, Complex<From>> {  // does not occur: a complex operand makes a complex result
  __device__ __forceinline__ static To of(Complex<From> x) { return static_cast<To>(x.re); }
};

template <class Compute>
__device__ __forceinline__ Compute load_as(DType type, const void* data, int64_t i) {
  switch (type) {
    case DType::f32: return Convert<Compute, float>::of(static_cast<const float*>(data)[i]);
    case DType::f64: return Convert<Compute, double>::of(static_cast<const double*>(data)[i]);
    case DType::bf16: return Convert<Compute, float>::of(__bfloat162float(static_cast<const __nv_bfloat16*>(data)[i]));
    case DType::f16: return Convert<Compute, float>::of(__half2float(static_cast<const __half*>(data)[i]));
    case DType::c64: return Convert<Compute, Complex<float>>::of(static_cast<const Complex<float>*>(data)[i]);
    case DType::c128: return Convert<Compute, Complex<double>>::of(static_cast<const Complex<double>*>(data)[i]);
    case DType::i8: return Convert<Compute, int8_t>::of(static_cast<const int8_t*>(data)[i]);
    case DType::i16: return Convert<Compute, int16_t>::of(static_cast<const int16_t*>(data)[i]);
    case DType::i32: return Convert<Compute, int32_t>::of(static_cast<const int32_t*>(data)[i]);
    case DType::i64: return Convert<Compute, int64_t>::of(static_cast<const int64_t*>(data)[i]);
    case DType::u8: return Convert<Compute, uint8_t>::of(static_cast<const uint8_t*>(data)[i]);
    default: return Convert<Compute, bool>::of(static_cast<const uint8_t*>(data)[i] != 0);
  }
}

__device__ __forceinline__ void store_as(DType type, void* data, int64_t i, float x) {
  if (type == DType::f32)
    static_cast<float*>(data)[i] = x;
  else if (type == DType::bf16)
    static_cast<__nv_bfloat16*>(data)[i] = narrow<__nv_bfloat16>(x);
  else
    static_cast<__half*>(data)[i] = narrow<__half>(x);
}
__device__ __forceinline__ void store_as(DType, void* data, int64_t i, double x) { static_cast<double*>(data)[i] = x; }
template <class T>
__device__ __forceinline__ void store_as(DType, void* data, int64_t i, Complex<T> x) {
  static_cast<Complex<T>*>(data)[i] = x;
}
__device__ __forceinline__ void store_as(DType type, void* data, int64_t i, uint64_t x) {
  switch (type) {
    case DType::i8:
    case DType::u8: static_cast<uint8_t*>(data)[i] = static_cast<uint8_t>(x); break;
    case DType::i16: static_cast<uint16_t*>(data)[i] = static_cast<uint16_t>(x); break;
    case DType::i32: static_cast<uint32_t*>(data)[i] = static_cast<uint32_t>(x); break;
    default: static_cast<uint64_t*>(data)[i] = x;
  }
}
__device__ __forceinline__ void store_as(DType, void* data, int64_t i, bool x) { static_cast<uint8_t*>(data)[i] = x; }

// bool is its own compute type; its alpha is 1.
template <class Compute>
struct Sum {
  using Alpha = typename Scalar<Compute>::Type;
  __device__ __forceinline__ static Alpha alpha(double value) { return Scalar<Compute>::of(value); }
  __device__ __forceinline__ static Compute of(Compute x, Alpha alpha, Compute y) { return scale_add(alpha, y, x); }
};
template <>
struct Sum<bool> {
  using Alpha = bool;
  __device__ __forceinline__ static bool alpha(double) { return true; }
  __device__ __forceinline__ static bool of(bool x, bool, bool y) { return x || y; }
};

// i / divisor for i < 2^31 by one multiplication: multiplier = ceil(2^(32 + shift) / divisor), shift =
// ceil(log2(divisor)), less 2^32, which the addition of i makes good.
struct Divider {
  uint32_t divisor = 1, multiplier = 0, shift = 0;

  Divider() = default;
  explicit Divider(uint32_t d) : divisor(d) {
    while ((uint64_t(1) << shift) < d) ++shift;
    multiplier = static_cast<uint32_t>((((uint64_t(1) << shift) - d) << 32) / d + 1);
  }
  __device__ __forceinline__ uint32_t quotient(uint32_t i) const {
    return (static_cast<uint32_t>((static_cast<uint64_t>(i) * multiplier) >> 32) + i) >> shift;
  }
};
struct Dividers {
  Divider dim[kMaxDims];
};

// The offsets of block i of elements: `run` along the last dimension, `rows` along the one before, 1 along the others.
struct Offsets {
  int64_t x = 0, y = 0, d = 0;
  int row = 0;  // the index along the last dimension but one

  __device__ __forceinline__ Offsets(const Add& p, const Dividers& dividers, uint32_t i, int run, int rows) {
    uint32_t step = run;
#pragma unroll 1
    for (int dim = p.dims - 1; dim >= 0; --dim) {
      const uint32_t outer = dim == 0 ? 0 : dividers.dim[dim].quotient(i);
      const uint32_t here = (i - outer * dividers.dim[dim].divisor) * step;
      x += here * p.x_stride[dim];
      y += here * p.y_stride[dim];
      d += here * p.d_stride[dim];
      if (dim == p.dims - 2) row = static_cast<int>(here);
      step = dim == p.dims - 1 ? rows : 1;
      i = outer;
    }
  }
};

template <class Compute>
__global__ void __launch_bounds__(kThreads)
    add_mixed(const __grid_constant__ Add p, const __grid_constant__ Dividers dividers, const uint32_t count) {
  const uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= count) return;
  const auto alpha = Sum<Compute>::alpha(p.alpha);
  const Offsets at(p, dividers, i, 1, 1);
  const Compute x = p.x == nullptr ? load_as<Compute>(p.x_type, p.x_value, 0) : load_as<Compute>(p.x_type, p.x, at.x);
  const Compute y = p.y == nullptr ? load_as<Compute>(p.y_type, p.y_value, 0) : load_as<Compute>(p.y_type, p.y, at.y);
  store_as(p.d_type, p.d, at.d, Sum<Compute>::of(x, alpha, y));
}

// An operand's run of N neighbours, or its first element alone.
template <int N, class T>
__device__ __forceinline__ Pack<T, N> load_run(const T* address, bool alone) {
  Pack<T, N> run{};
  if (N == 1 || alone)
    run.v[0] = *address;
  else
    run = load_pack<Pack<T, N>>(address);
  return run;
}

// A thread has N neighbours along the last dimension in several rows of the one before: the next ones, or, where rows
// are short, such that lie `span` apart, so that neighbouring threads have neighbouring rows. 16 bytes take a register
// each.
template <int N>
constexpr int kRowsOf = N == 16 ? 1 : 4;

// count: of threads.
template <DType kType, int N>
__global__ void __launch_bounds__(kThreads)
    add_rows(const __grid_constant__ Add p, const __grid_constant__ Dividers dividers, const int span,
             const uint32_t count) {
  using T = typename Element<kType>::Type;
  using Compute = typename Element<kType>::Acc;
  constexpr int kRows = kRowsOf<N>;
  const uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= count) return;
  const auto alpha = Sum<Compute>::alpha(p.alpha);
  const Offsets at(p, dividers, i, N, span == 1 ? kRows : 1);
  const int last = p.dims - 1, before = last > 0 ? last - 1 : 0;
  const int left = last > 0 ? static_cast<int>(p.size[before]) - at.row : 1;
  const int64_t x_row = span * p.x_stride[before], y_row = span * p.y_stride[before], d_row = span * p.d_stride[before];
  const bool one_x = p.x_stride[last] == 0, one_y = p.y_stride[last] == 0;  // for the whole run
  Pack<T, N> x[kRows], y[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (r * static_cast<int64_t>(span) >= left) break;
    x[r] = load_run<N>(static_cast<const T*>(p.x) + at.x + r * x_row, one_x);
    y[r] = load_run<N>(static_cast<const T*>(p.y) + at.y + r * y_row, one_y);
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (r * static_cast<int64_t>(span) >= left) break;
    Pack<T, N> sums;
#pragma unroll
    for (int v = 0; v < N; ++v) {
      const Compute a = widen<Compute>(one_x ? x[r].v[0] : x[r].v[v]);
      const Compute b = widen<Compute>(one_y ? y[r].v[0] : y[r].v[v]);
      sums.v[v] = narrow<T>(Sum<Compute>::of(a, alpha, b));
    }
    store_pack(static_cast<T*>(p.d) + at.d + r * d_row, sums);
  }
}

// A tile of Y is read along the last dimension but one, that of its unit stride, and turned in shared memory; X and D
// are along the last. Where it is X that is turned, the two have changed places.
template <DType kType>
struct TurnedLayout {
  using T = typename Element<kType>::Type;
  static constexpr int kSide = sizeof(T) <= 4 ? 64 : 32;
  static constexpr int kPitch = kSide + (sizeof(T) < 4 ? 4 / sizeof(T) : 1);
  static constexpr int kStep = kThreads / kSide, kLoads = kSide / kStep;
  struct Shared {
    T tile[kSide * kPitch];  // [row][column], the last dimension's index
  };
};

struct Turned {
  bool swapped;             // X and Y have changed places
  uint32_t columns, rows;   // tiles along the last dimension, and along the one before
  uint32_t size[kMaxDims];  // of the dimensions before those two
};

template <DType kType>
__global__ void __launch_bounds__(kThreads)
    add_turned(const __grid_constant__ Add p, const __grid_constant__ Turned t) {
  using Layout = TurnedLayout<kType>;
  using T = typename Layout::T;
  using Compute = typename Element<kType>::Acc;
  typename Layout::Shared& shared = shared_storage<typename Layout::Shared>();
  const auto alpha = Sum<Compute>::alpha(p.alpha);
  const int last = p.dims - 1, fast = static_cast<int>(threadIdx.x) % Layout::kSide;
  const int slow = static_cast<int>(threadIdx.x) / Layout::kSide;

  uint32_t outer = blockIdx.x / t.columns;
  const int64_t column0 = static_cast<int64_t>(blockIdx.x - outer * t.columns) * Layout::kSide;
  uint32_t rest = outer / t.rows;
  const int64_t row0 = static_cast<int64_t>(outer - rest * t.rows) * Layout::kSide;
  int64_t x_at = row0 * p.x_stride[last - 1] + column0 * p.x_stride[last];
  int64_t y_at = row0 * p.y_stride[last - 1] + column0 * p.y_stride[last];
  int64_t d_at = row0 * p.d_stride[last - 1] + column0 * p.d_stride[last];
#pragma unroll 1
  for (int dim = last - 2; dim >= 0; --dim) {
    outer = rest / t.size[dim];
    const int64_t here = rest - outer * t.size[dim];
    x_at += here * p.x_stride[dim];
    y_at += here * p.y_stride[dim];
    d_at += here * p.d_stride[dim];
    rest = outer;
  }
  const int rows = static_cast<int>(p.size[last - 1] - row0 < Layout::kSide ? p.size[last - 1] - row0 : Layout::kSide);
  const int columns = static_cast<int>(p.size[last] - column0 < Layout::kSide ? p.size[last] - column0 : Layout::kSide);

  const int y_left = fast < rows ? columns - slow : 0, x_left = fast < columns ? rows - slow : 0;
  T x[Layout::kLoads], y[Layout::kLoads];
  const T* from = static_cast<const T*>(p.y) + y_at + fast * p.y_stride[last - 1] + slow * p.y_stride[last];
#pragma unroll
  for (int i = 0; i < Layout::kLoads; ++i, from += Layout::kStep * p.y_stride[last])
    y[i] = i * Layout::kStep < y_left ? *from : T{};
  from = static_cast<const T*>(p.x) + x_at + fast * p.x_stride[last] + slow * p.x_stride[last - 1];
#pragma unroll
  for (int i = 0; i < Layout::kLoads; ++i, from += Layout::kStep * p.x_stride[last - 1])
    x[i] = i * Layout::kStep < x_left ? *from : T{};
#pragma unroll
  for (int i = 0; i < Layout::kLoads; ++i)
    shared_store(&shared.tile[fast * Layout::kPitch + slow + i * Layout::kStep], y[i]);
  __syncthreads();
  T* to = static_cast<T*>(p.d) + d_at + fast * p.d_stride[last] + slow * p.d_stride[last - 1];
#pragma unroll
  for (int i = 0; i < Layout::kLoads; ++i, to += Layout::kStep * p.d_stride[last - 1]) {
    const Compute a = widen<Compute>(x[i]);
    const Compute b = widen<Compute>(shared_load(&shared.tile[(slow + i * Layout::kStep) * Layout::kPitch + fast]));
    if (i * Layout::kStep < x_left)
      *to = narrow<T>(t.swapped ? Sum<Compute>::of(b, alpha, a) : Sum<Compute>::of(a, alpha, b));
  }
}

// p.dims <= 1 with unit strides; whole packs first, the elements after the last pack by the first threads.
template <DType kType>
__global__ void __launch_bounds__(kThreads) add_contiguous(const __grid_constant__ Add p, const int64_t count) {
  using T = typename Element<kType>::Type;
  using Compute = typename Element<kType>::Acc;
  constexpr int kVector = 16 / sizeof(T);
  using Vector = Pack<T, kVector>;
  const auto alpha = Sum<Compute>::alpha(p.alpha);
  const T* x = static_cast<const T*>(p.x);
  const T* y = static_cast<const T*>(p.y);
  T* d = static_cast<T*>(p.d);
  const Compute x_value = x == nullptr ? load_as<Compute>(p.x_type, p.x_value, 0) : Compute{};
  const Compute y_value = y == nullptr ? load_as<Compute>(p.y_type, p.y_value, 0) : Compute{};

  const int64_t packs = count / kVector, step = static_cast<int64_t>(gridDim.x) * kThreads;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  for (int64_t i = first; i < packs; i += step) {
    Vector xs{}, ys{}, ds;
    if (x != nullptr) xs = load_pack<Vector>(x + i * kVector);
    if (y != nullptr) ys = load_pack<Vector>(y + i * kVector);
#pragma unroll
    for (int v = 0; v < kVector; ++v)
      ds.v[v] = narrow<T>(Sum<Compute>::of(x == nullptr ? x_value : widen<Compute>(xs.v[v]), alpha,
                                           y == nullptr ? y_value : widen<Compute>(ys.v[v])));
    store_pack(d + i * kVector, ds);
  }
  for (int64_t i = packs * kVector + first; i < count; i += step)
    d[i] = narrow<T>(Sum<Compute>::of(x == nullptr ? x_value : widen<Compute>(x[i]), alpha,
                                      y == nullptr ? y_value : widen<Compute>(y[i])));
}

bool is_contiguous(const void* data, DType type, int64_t stride, const Add& p) {
  if (data == nullptr) return true;
  return type == p.d_type && (p.dims == 0 || stride == 1) && reinterpret_cast<uintptr_t>(data) % 16 == 0;
}

unsigned blocks_for(int64_t threads) {
  const int64_t blocks = (threads + kThreads - 1) / kThreads;
  return static_cast<unsigned>(blocks < kMaxBlocks ? blocks : kMaxBlocks);
}

// How a thread with `run` x `rows` elements is found, and how many of them there are.
Dividers dividers_of(const Add& p, int run, int rows, uint32_t* count) {
  Dividers dividers;
  *count = 1;
  for (int dim = 0; dim < p.dims; ++dim) {
    const int64_t step = dim == p.dims - 1 ? run : dim == p.dims - 2 ? rows : 1;
    dividers.dim[dim] = Divider(static_cast<uint32_t>((p.size[dim] + step - 1) / step));
    *count *= dividers.dim[dim].divisor;
  }
  return dividers;
}

template <class Compute>
cudaError_t launch_mixed(const Add& p, cudaStream_t stream) {
  uint32_t count;
  const Dividers dividers = dividers_of(p, 1, 1, &count);
  return launch_kernel(&add_mixed<Compute>, dim3(blocks_for(count)), dim3(kThreads), 0, stream, p, dividers, count);
}

template <DType kType, int N>
cudaError_t launch_rows(Add p, cudaStream_t stream) {
  if (p.dims == 1 && N == 1) {  // rows of one element: a thread has several
    p.dims = 2, p.size[1] = 1;
    p.x_stride[1] = p.y_stride[1] = p.d_stride[1] = 0;
  }
  uint32_t count;
  const Dividers dividers = dividers_of(p, N, kRowsOf<N>, &count);
  constexpr int kShort = 32;  // runs: a warp's
  const bool is_short = p.dims > 1 && p.size[p.dims - 1] < kShort * N;
  const int span = is_short ? static_cast<int>(dividers.dim[p.dims - 2].divisor) : 1;
  return launch_kernel(&add_rows<kType, N>, dim3(blocks_for(count)), dim3(kThreads), 0, stream, p, dividers, span,
                       count);
}

// Whether an operand may be read by runs of `run` elements along the last dimension.
bool has_runs(const Add& p, const void* data, const int64_t* strides, int run, bool is_result) {
  const int last = p.dims - 1;
  if (!is_result && strides[last] == 0) return true;
  bool aligned = strides[last] == 1 && reinterpret_cast<uintptr_t>(data) % 16 == 0;
  for (int dim = 0; dim < last; ++dim) aligned &= strides[dim] % run == 0;
  return aligned;
}

// Moves the dimension of `strides` that has a unit stride before the last. False where there is none, or too little of
// either dimension.
bool turn(Add* p, const int64_t* strides) {
  constexpr int kLeast = 16;
  const int last = p->dims - 1;
  if (last < 1 || p->d_stride[last] != 1 || p->size[last] < kLeast || strides[last] == 0 || strides[last] == 1)
    return false;
  for (int dim = 0; dim < last; ++dim) {
    if (strides[dim] != 1 || p->size[dim] < kLeast) continue;
    for (int64_t* values : {p->size, p->x_stride, p->y_stride, p->d_stride}) std::swap(values[dim], values[last - 1]);
    return true;
  }
  return false;
}

template <DType kType>
cudaError_t launch_turned(Add p, bool swapped, cudaStream_t stream) {
  constexpr int kSide = TurnedLayout<kType>::kSide;
  if (swapped) {
    std::swap(p.x, p.y);
    std::swap(p.x_stride, p.y_stride);
  }
  Turned t{};
  t.swapped = swapped;
  t.columns = static_cast<uint32_t>((p.size[p.dims - 1] + kSide - 1) / kSide);
  t.rows = static_cast<uint32_t>((p.size[p.dims - 2] + kSide - 1) / kSide);
  uint32_t tiles = t.columns * t.rows;
  for (int dim = 0; dim < p.dims - 2; ++dim) tiles *= t.size[dim] = static_cast<uint32_t>(p.size[dim]);
  return launch_kernel(&add_turned<kType>, dim3(tiles), dim3(kThreads), 0, stream, p, t);
}

template <DType kType>
cudaError_t launch_type(const Add& problem, bool contiguous, cudaStream_t stream) {
  using Wide = typename Element<kType>::Acc;
  constexpr int kRun = 16 / element_size(kType);
  Add p = problem;
  const int64_t count = p.numel();
  if (contiguous) {
    const int64_t packs = count / kRun;
    return launch_kernel(&add_contiguous<kType>, dim3(blocks_for(packs > 0 ? packs : 1)), dim3(kThreads), 0, stream, p,
                         count);
  }
  // Operands wider than the result's 32-bit accumulator may occur (a 0-dim int64 beside an int8), so 64 bits.
  if (p.dims == 0 || p.x == nullptr || p.y == nullptr || p.x_type != kType || p.y_type != kType)
    return launch_mixed<std::conditional_t<is_integral(kType), uint64_t, Wide>>(p, stream);
  if (turn(&p, p.y_stride)) return launch_turned<kType>(p, false, stream);
  if (turn(&p, p.x_stride)) return launch_turned<kType>(p, true, stream);
  if (p.size[p.dims - 1] % kRun == 0 && has_runs(p, p.x, p.x_stride, kRun, false) &&
      has_runs(p, p.y, p.y_stride, kRun, false) && has_runs(p, p.d, p.d_stride, kRun, true))
    return launch_rows<kType, kRun>(p, stream);
  return launch_rows<kType, 1>(p, stream);
}

}  // namespace

cudaError_t launch_add(const Add& p, cudaStream_t stream) {
  if (p.numel() == 0) return cudaSuccess;
  const bool contiguous = p.dims <= 1 && is_contiguous(p.x, p.x_type, p.x_stride[0], p) &&
                          is_contiguous(p.y, p.y_type, p.y_stride[0], p) &&
                          is_contiguous(p.d, p.d_type, p.d_stride[0], p);
  if (p.numel() > INT32_MAX && !(contiguous && p.d_type != DType::boolean)) {  // the others count in 32 bits
    Add half[2] = {p, p};
    int dim = 0;
    for (int i = 1; i < p.dims; ++i)
      if (p.size[i] > p.size[dim]) dim = i;
    half[0].size[dim] = p.size[dim] / 2;
    half[1].size[dim] -= half[0].size[dim];
    const auto move = [&](auto* data, DType type, int64_t stride) -> decltype(data) {
      return data == nullptr
                 ? data
                 : static_cast<decltype(data)>(static_cast<char*>(const_cast<void*>(static_cast<const void*>(data))) +
                                               half[0].size[dim] * stride * element_size(type));
    };
    half[1].x = move(p.x, p.x_type, p.x_stride[dim]);
    half[1].y = move(p.y, p.y_type, p.y_stride[dim]);
    half[1].d = move(p.d, p.d_type, p.d_stride[dim]);
    const cudaError_t error = launch_add(half[0], stream);
    return error == cudaSuccess ? launch_add(half[1], stream) : error;
  }
  switch (p.d_type) {
    case DType::f32: return launch_type<DType::f32>(p, contiguous, stream);
    case DType::f64: return launch_type<DType::f64>(p, contiguous, stream);
    case DType::bf16: return launch_type<DType::bf16>(p, contiguous, stream);
    case DType::f16: return launch_type<DType::f16>(p, contiguous, stream);
    case DType::c64: return launch_type<DType::c64>(p, contiguous, stream);
    case DType::c128: return launch_type<DType::c128>(p, contiguous, stream);
    case DType::i8: return launch_type<DType::i8>(p, contiguous, stream);
    case DType::u8: return launch_type<DType::u8>(p, contiguous, stream);
    case DType::i16: return launch_type<DType::i16>(p, contiguous, stream);
    case DType::i32: return launch_type<DType::i32>(p, contiguous, stream);
    case DType::i64: return launch_type<DType::i64>(p, contiguous, stream);
    case DType::boolean: return launch_mixed<bool>(p, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace myops
