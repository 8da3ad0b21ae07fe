// The engines of every ISA level that this CPU has, without torch, against sums in float64 or modulo 2^32. For CPUs
// that the suite does not run on: compiled by tests/test_cross_compile.py and run in an emulator, or with instructions
// that are emulated.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "cpu/gemm/dispatch.h"
#include "cpu/gemm/panels.h"

using namespace myops;
using namespace myops::cpu;

namespace {

uint32_t random_state = 1;
int small() { return static_cast<int>((random_state = random_state * 1664525u + 1013904223u) >> 24) % 5 - 2; }

std::vector<std::unique_ptr<char[]>> held;
void* allocate(void*, int64_t bytes) {
  held.emplace_back(new char[bytes + 64]);
  return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(held.back().get()) + 63) / 64 * 64);
}

void store(DType type, void* base, int64_t i, int v) {
  switch (type) {
    case DType::f32: static_cast<float*>(base)[i] = static_cast<float>(v); return;
    case DType::f64: static_cast<double*>(base)[i] = v; return;
    case DType::bf16: static_cast<bf16*>(base)[i] = to_bf16(static_cast<float>(v)); return;
    case DType::f16: static_cast<f16*>(base)[i] = to_f16(static_cast<float>(v)); return;
    case DType::i8: static_cast<int8_t*>(base)[i] = static_cast<int8_t>(v); return;
    case DType::i64: static_cast<int64_t*>(base)[i] = v; return;
    default: std::abort();
  }
}

double load(DType type, const void* base, int64_t i) {
  switch (type) {
    case DType::f32: return static_cast<const float*>(base)[i];
    case DType::f64: return static_cast<const double*>(base)[i];
    case DType::bf16: return to_float(static_cast<const bf16*>(base)[i]);
    case DType::f16: return to_float(static_cast<const f16*>(base)[i]);
    case DType::i8: return static_cast<const int8_t*>(base)[i];
    case DType::i64: return static_cast<double>(static_cast<const int64_t*>(base)[i]);
    default: std::abort();
  }
}

// What a whole number becomes in a dtype.
double stored(DType type, double exact) {
  alignas(8) char element[8];
  if (type == DType::i8) return static_cast<int8_t>(static_cast<int64_t>(exact));
  store(type, element, 0, static_cast<int>(exact));
  return load(type, element, 0);
}

// Whole numbers, so that every order of summation is exact.
bool check(const Engine& engine, DType type, int64_t m, int64_t n, int64_t k, bool transposed, bool packed) {
  const int size = element_size(type);
  std::vector<char> a(m * k * size + 64), b(k * n * size + 64), d(m * n * size + 64, 0x55), weight(k * n * size + 64);
  for (int64_t i = 0; i < m * k; ++i) store(type, a.data(), i, small());
  for (int64_t i = 0; i < k * n; ++i) store(type, b.data(), i, small());
  Gemm g;
  g.M = m, g.N = n, g.K = k;
  g.in = g.c_type = g.out = type;
  g.A.data = a.data(), g.A.row_stride = k, g.A.col_stride = 1;
  g.B.data = b.data(), g.B.row_stride = transposed ? 1 : n, g.B.col_stride = transposed ? k : 1;
  g.D.data = d.data(), g.D.row_stride = n, g.D.col_stride = 1;
  Runtime rt;
  rt.allocate = &allocate;
  std::vector<char> panels;
  if (packed) {
    const PanelFormat format = panel_format(type, n, k, engine.traits);
    panels.resize(format.size());
    std::memcpy(panels.data(), &format, sizeof(format));
    g.b_panels = true;
    Gemm one = g;
    one.M = 1;
    engine.pack(one, make_plan(one, engine.traits, 1), panels.data() + sizeof(format));
    unpack_weight(panels.data(), weight.data());
    for (int64_t j = 0; j < n; ++j)
      for (int64_t p = 0; p < k; ++p)
        if (load(type, weight.data(), j * k + p) != load(type, b.data(), transposed ? j * k + p : p * n + j)) {
          std::printf("%s dtype %d, %dx%d: unpacked element %d, %d differs\n", engine.traits.name,
                      static_cast<int>(type), static_cast<int>(n), static_cast<int>(k), static_cast<int>(j),
                      static_cast<int>(p));
          return false;
        }
    g.B.data = panels.data() + sizeof(format);
  }
  const Gemm c = canonical(g, engine.traits);
  engine.gemm(c, make_plan(c, engine.traits, 1), rt);
  held.clear();
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (int64_t p = 0; p < k; ++p)
        sum += load(type, a.data(), i * k + p) * load(type, b.data(), transposed ? j * k + p : p * n + j);
      if (load(type, d.data(), i * n + j) != stored(type, sum)) {
        std::printf("%s dtype %d, %dx%dx%d %s%s: element %d, %d is %g, not %g\n", engine.traits.name,
                    static_cast<int>(type), static_cast<int>(m), static_cast<int>(n), static_cast<int>(k),
                    transposed ? "NT" : "NN", packed ? " packed" : "", static_cast<int>(i), static_cast<int>(j),
                    load(type, d.data(), i * n + j), stored(type, sum));
        return false;
      }
    }
  return true;
}

}  // namespace

int main() {
  int count = 0;
  for (const Engine* engine : available_engines())
    for (DType type : {DType::f32, DType::f64, DType::bf16, DType::f16, DType::i8, DType::i64})
      for (int64_t m : {1, 2, 7, 13, 60})
        for (int64_t n : {1, 3, 16, 33, 70})
          for (int64_t k : {0, 1, 17, 400})
            for (int way = 0; way < 4; ++way, ++count)
              if (!check(*engine, type, m, n, k, way % 2 == 1, way >= 2)) return 1;
  std::printf("%d products on %s\n", count, available_engines().front()->traits.name);
  return 0;
}
