#!/usr/bin/env bash
# Builds the CPU library of AVX-512 and AMX with tests/emulation/x86 in place of their instructions, for a machine that
# lacks them but has AVX2, and runs the kernels' tests on each level, as many files at a time as there are processors.
# Usage: tests/levels.sh PYTHON [PYTEST ARGUMENTS]
set -euo pipefail
python=$(realpath -s "$1")
cd "$(dirname "$(realpath "$0")")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cp -r myops tests pyproject.toml "$folder"
rm -f "$folder"/myops/*.so

compile() {
  g++ -std=c++17 -fPIC -fvisibility=hidden -Wno-psabi -Ikernels -DTORCH_TARGET_VERSION=0x020b000000000000 -DMYOPS_BUILD_TORCH=emulation \
    $includes "${@:2}" -c "$1" -o "$folder/${1//\//_}.o"
}
export -f compile
export folder includes
includes=$("$python" -c "from torch.utils.cpp_extension import include_paths; print(*('-isystem' + p for p in include_paths()))")
libraries=$("$python" -c "from torch.utils.cpp_extension import library_paths; print(*('-L' + p for p in library_paths()))")
{
  printf '%s -O1 -mavx2 -mfma -Itests/emulation/x86\n' kernels/cpu/gemm/isa/{avx512,avx512_bf16,amx}.cpp
  printf '%s -O2\n' kernels/library.cpp tests/emulation/x86/levels.cpp \
    $(find kernels/cpu -name '*.cpp' ! -path '*/isa/*' ! -name dispatch.cpp)
} | xargs -P "$(nproc)" -L 1 bash -c 'compile "$@"' compile
g++ "$folder"/*.o -shared $libraries -Wl,--no-as-needed -ltorch -ltorch_cpu -o "$folder/myops/libmyops_cpu.so"

cd "$folder"
export PYTHONPATH=$PWD OMP_WAIT_POLICY=passive MYOPS_TEST_ONE_ISA=1 python
run() {
  MYOPS_ISA=$1 "$python" -m pytest "tests/test_$2.py" "${@:3}" >"$1-$2.log" 2>&1 ||
    [[ $? == 5 ]] || echo "tests/test_$2.py failed on $1" >>failed # 5: nothing is selected by the arguments
  cat "$1-$2.log"
}
export -f run
# The longest first. What is not a dense product is the same on all of them; test_bounds.py goes through them by itself.
{
  printf 'avx512 %s\n' sparse_ops sparse sparse_blocks bounds
  for name in semantics packed batch_invariance activation fuzz; do printf "%s $name\n" amx_fp16 amx avx512_bf16 avx512; done
} | xargs -P "$(nproc)" -I{} bash -c 'run {} "$@"' run "${@:2}"
if cat failed 2>/dev/null; then exit 1; fi
echo "levels: nothing failed"
