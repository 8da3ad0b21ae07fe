#!/usr/bin/env bash
# Builds the CPU library and the emulation of the CUDA kernels with AddressSanitizer and UndefinedBehaviorSanitizer, in a
# clone of this checkout, and runs the kernels' tests on them.
# Usage: tests/sanitize.sh PYTHON [PYTEST ARGUMENTS]
set -euo pipefail
python=$(realpath -s "$1")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
git clone --quiet "$(dirname "$(realpath "$0")")/.." "$folder/myops"
cd "$folder/myops"
compiler="g++ -fsanitize=address,undefined -fno-sanitize=vptr -fno-omit-frame-pointer"
CXX=$compiler MYOPS_DEBUG=1 MYOPS_CUDA=0 "$python" setup.py build_ext --inplace
export CXX="$compiler --param asan-stack=0" # the threads of the emulation have stacks that AddressSanitizer does not know
"$python" tests/emulation/build.py
export PYTHONPATH=$PWD LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)"
export ASAN_OPTIONS=detect_leaks=0:detect_odr_violation=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
# Deselected: what runs out of memory on purpose, which ends a process under AddressSanitizer, and what looks for stray accesses
# by itself and is too slow here.
"$python" -m pytest tests/test_semantics.py tests/test_fuzz.py tests/test_threads.py tests/test_packed.py tests/test_activation.py \
  tests/test_batch_invariance.py tests/test_sparse_ops.py tests/test_sparse.py tests/test_cuda_sparse_emulation.py \
  tests/test_cuda_tiles.py tests/test_cuda_emulation.py --deselect tests/test_sparse_ops.py::test_an_error_of_a_thread_keeps_its_type \
  --deselect tests/test_cuda_emulation.py::test_reads_stay_inside_the_operands "${@:2}"
