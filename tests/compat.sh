#!/usr/bin/env bash
# Installs a wheel into the given interpreter and runs the CPU suite against it, away from the source tree. Before that:
# what knows torch compiles with the headers of the interpreter's.
# Usage: tests/compat.sh PYTHON WHEEL
set -euo pipefail
python=$(realpath -s "$1")
wheel=$(realpath "$2")
tests=$(dirname "$(realpath "$0")")
includes=$("$python" -c "from torch.utils.cpp_extension import include_paths; print(*('-isystem' + p for p in include_paths()))")
for source in "$tests"/../kernels/library.cpp "$tests"/../kernels/cpu/*.cpp; do
  g++ -fsyntax-only -std=c++17 -fvisibility=hidden -Wall -Wextra -Werror -DTORCH_TARGET_VERSION=0x020b000000000000 \
    -DMYOPS_BUILD_TORCH=none $includes "$source"
done
g++ -fsyntax-only -std=c++17 -fvisibility=hidden -DTORCH_TARGET_VERSION=0x020b000000000000 -DMYOPS_CUDA_EMULATION \
  -include "$tests/emulation/cuda_emulation.h" $includes -x c++ "$tests/../kernels/cuda/backend.cpp"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m pip install --quiet --force-reinstall --no-deps "$wheel"
cp -r "$tests" "$folder/tests"
cp "$tests/../pyproject.toml" "$folder/"
cd "$folder"
"$python" -c "import myops; print(myops.build_info())"
# What needs the checkout or the demo's packages belongs to `make test`.
"$python" -m pytest tests --ignore-glob "tests/test_cuda_*" --ignore tests/test_cross_compile.py \
  --ignore tests/test_packaging.py --ignore tests/test_gpu_script.py --ignore tests/test_demo.py \
  --ignore tests/test_bench.py --ignore tests/test_readme.py "${@:3}"
