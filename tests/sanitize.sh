#!/usr/bin/env bash
# Builds the CPU library and the emulation of the CUDA kernels with AddressSanitizer and UndefinedBehaviorSanitizer, in a
# clone of this checkout, and runs the kernels' tests on them, as many files at a time as there are processors.
# Usage: tests/sanitize.sh PYTHON [PYTEST ARGUMENTS]
set -euo pipefail
python=$(realpath -s "$1")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
git clone --quiet "$(dirname "$(realpath "$0")")/.." "$folder/myops"
cd "$folder/myops"
compiler="g++ -fsanitize=address,undefined -fno-sanitize=vptr -fno-omit-frame-pointer"
CXX=$compiler MYOPS_DEBUG=1 MYOPS_CUDA=0 "$python" setup.py build_ext --inplace
# The threads of the emulation have stacks that AddressSanitizer does not know.
export EMULATION_CXX="$compiler --param asan-stack=0"
"$python" tests/emulation/build.py

# A finding ends its process. Its message must not go where pytest captures the output of tests, which ends with it.
export ASAN_OPTIONS=detect_leaks=0:detect_odr_violation=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export PYTHONPATH=$PWD PYTEST_ADDOPTS=--capture=sys OMP_WAIT_POLICY=passive python folder
# Deselected: what runs out of memory on purpose, which ends a process under AddressSanitizer, and what looks for stray
# accesses by itself and is too slow here.
run() {
  LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" \
    "$python" -m pytest "tests/test_$1.py" --deselect tests/test_sparse_ops.py::test_an_error_of_a_thread_keeps_its_type \
    --deselect tests/test_cuda_emulation.py::test_reads_stay_inside_the_operands "${@:2}" >"$folder/$1.log" 2>&1 ||
    [[ $? == 5 ]] || echo "tests/test_$1.py failed" >>"$folder/failed" # 5: nothing is selected by the arguments
  cat "$folder/$1.log"
}
export -f run
# The longest first.
printf '%s\n' cuda_tiles cuda_sparse_emulation cuda_emulation sparse_ops packed activation semantics batch_invariance sparse \
  sparse_blocks fuzz threads | xargs -P "$(nproc)" -I{} bash -c 'run {} "$@"' run "${@:2}"
if cat "$folder/failed" 2>/dev/null; then exit 1; fi
echo "sanitize: nothing found"
