"""Builds the libraries of myops with ninja: `libmyops_cpu.so` always, `libmyops_cuda.so` where nvcc is found.

Both are plain shared libraries on the LibTorch Stable ABI (target 2.11), loaded with `torch.ops.load_library`; neither
links against Python. Why not `torch.utils.cpp_extension.BuildExtension`: it has no flags per file, which the ISA levels
need, and it refuses to compile CUDA against a CPU-only torch, which the stable headers allow.

Environment:
    MYOPS_CUDA=auto|1|0     build the CUDA library where a fitting nvcc is found (default) | always | never
    CUDA_HOME               where nvcc is; else /usr/local/cuda and PATH
    MYOPS_CUDA_ARCHS        architectures, default "80,90a"; the lowest also gets PTX; what a Hopper alone has needs 90a
    MYOPS_DEBUG=1           -O1 -g
    MYOPS_WERROR=1          a warning of a compiler is an error, as in CI; of ptxas, that a kernel's registers spill
    CXX                     g++ (default); clang does not know the vector operations that the kernels are written in
    CXXFLAGS, LDFLAGS       added to those of the C++ units and of both links
    MAX_JOBS                parallel compilations

Objects stay in build/ninja, so that a second build, by pip too, compiles what has changed.
"""

from __future__ import annotations

import fcntl
import functools
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
KERNELS = ROOT / "kernels"
WORK = ROOT / "build" / "ninja"
TORCH_TARGET = "0x020b000000000000"  # 2.11: the oldest torch that the binary runs on

# Flags of the units that are one ISA level each. -Wno-*uninitialized: false alarms of gcc 12's AVX-512 headers.
ISA_FLAGS = {
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": [
        "-mavx512f",
        "-mavx512bw",
        "-mavx512dq",
        "-mavx512vl",
        "-mfma",
        "-mf16c",
        "-Wno-maybe-uninitialized",
        "-Wno-uninitialized",
    ],
}
ISA_FLAGS["avx512_bf16"] = [*ISA_FLAGS["avx512"], "-mavx512bf16", "-mavx512vnni"]
ISA_FLAGS["amx"] = [*ISA_FLAGS["avx512_bf16"], "-mamx-tile", "-mamx-bf16", "-mamx-int8"]
ISA_LEVELS = {"x86_64": list(ISA_FLAGS), "aarch64": ["neon"]}
# gcc copies and clears what has up to 8 KB by `rep movsq` and `rep stosq`, which take tens of cycles to begin: of the
# problems and plans that a call of 4.4 us hands on, 0.2 us (Zen 3).
STRATEGY = "vector_loop:2048:noalign,libcall:-1:noalign"
BASE_FLAGS = {"x86_64": [f"-mmemcpy-strategy={STRATEGY}", f"-mmemset-strategy={STRATEGY}"]}


def find_nvcc() -> tuple[Path | None, str]:
    """nvcc, and where it was looked for."""
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if home := os.environ.get(variable):
            candidate = Path(home) / "bin" / "nvcc"
            return (candidate if candidate.is_file() else None), f"{variable}={home}"
    if (candidate := Path("/usr/local/cuda/bin/nvcc")).is_file():
        return candidate, str(candidate)
    found = shutil.which("nvcc")
    return Path(found) if found else None, "/usr/local/cuda or on PATH (set CUDA_HOME)"


@functools.cache
def dry_run(nvcc: Path) -> subprocess.CompletedProcess[str]:
    """What nvcc would do: an error where it does not know an architecture, else the folders that it looks into."""
    command = [str(nvcc), "--dryrun", *host_flags(), *arch_flags(), "-x", "cu", "-c", os.devnull]
    try:
        return subprocess.run(command, capture_output=True, text=True)
    except OSError as error:  # of another machine, perhaps
        return subprocess.CompletedProcess(command, 1, "", str(error))


def host_flags() -> list[str]:
    """nvcc's for CXX, which may be a compiler behind a launcher (ccache g++) and before its options."""
    words = shlex.split(os.environ.get("CXX", ""))
    compilers, options = [w for w in words if w[0] != "-"], [w for w in words if w[0] == "-"]
    escaped = [option.replace(",", "\\,") for option in options]  # nvcc cuts at commas
    return [*(f"-ccbin={name}" for name in compilers[-1:]), *(f"-Xcompiler={option}" for option in escaped)]


def decide_cuda() -> tuple[Path | None, str]:
    """The nvcc to use, or None, and the reason in words."""
    wish = os.environ.get("MYOPS_CUDA", "auto").lower()
    if wish not in ("auto", "0", "1"):
        raise SystemExit(f"MYOPS_CUDA must be auto, 1 or 0, but is {wish!r}")
    if wish == "0":
        return None, "MYOPS_CUDA=0"
    nvcc, place = find_nvcc()
    if nvcc is None:
        why_not = f"no nvcc in {place}"
    elif (tried := dry_run(nvcc)).returncode != 0:
        why_not = f"{nvcc}: {tried.stderr.strip()}"
    else:
        return nvcc, f"nvcc at {nvcc}"
    if wish == "1":
        raise SystemExit(f"MYOPS_CUDA=1, but {why_not}")
    return None, why_not


def torch_paths() -> tuple[list[str], Path]:
    import torch
    from torch.utils import cpp_extension

    if tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2]) < (2, 11):
        raise SystemExit(f"myops needs torch >= 2.11, but is built with torch {torch.__version__}")
    return list(cpp_extension.include_paths()), Path(torch.__file__).parent / "lib"


def compiler() -> str:
    """The command of the C++ compiler, which has to be g++."""
    cxx = os.environ.get("CXX") or "g++"
    macros = [*shlex.split(cxx), "-dM", "-E", "-x", "c++", os.devnull]
    try:
        defined = subprocess.run(macros, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"myops is compiled by g++, but CXX={cxx} cannot be run: {error}") from None
    if "__clang__" in defined or "__GNUC__" not in defined:
        raise SystemExit(f"myops is compiled by g++ (12 is tested), and {cxx} is another compiler: set CXX")
    return cxx


class NinjaBuild(build_ext):
    """Writes one build.ninja for both libraries and runs it."""

    def get_ext_filename(self, fullname: str) -> str:
        return os.path.join(*fullname.split(".")) + ".so"  # no Python ABI in the name: there is none in the file

    def run(self) -> None:
        self.nvcc, reason = decide_cuda()
        print(f"myops: building the CPU library; CUDA library: {'yes' if self.nvcc else 'no'}, {reason}", flush=True)
        if self.nvcc is None:  # one of an earlier build must not stay beside the new CPU library
            Path(self.get_ext_fullpath("myops.libmyops_cuda")).unlink(missing_ok=True)
            self.extensions = [e for e in self.extensions if e.name != "myops.libmyops_cuda"]
        super().run()

    def build_extensions(self) -> None:
        WORK.mkdir(parents=True, exist_ok=True)
        jobs = ["-j", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
        ninja = shutil.which("ninja") or str(Path(sys.executable).parent / "ninja")
        with open(WORK / "lock", "w") as lock:  # another build of this checkout has perhaps another torch
            fcntl.flock(lock, fcntl.LOCK_EX)
            write_ninja_file(self.nvcc)
            subprocess.run([ninja, "-C", str(WORK), *jobs], check=True)
            for extension in self.extensions:
                target = Path(self.get_ext_fullpath(extension.name))
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(WORK / target.name, target)


def write_ninja_file(nvcc: Path | None) -> None:
    from ninja.ninja_syntax import Writer

    includes, torch_lib = torch_paths()
    machine = platform.machine().lower()
    levels = ["baseline", *ISA_LEVELS.get(machine, [])]
    cxx = compiler()
    optimise = ["-O1", "-g"] if os.environ.get("MYOPS_DEBUG") == "1" else ["-O3"]
    # Ninja compiles again what another command would make: one of another compiler or torch.
    tools = [torch_version(), *(version_of(tool) for tool in (cxx, nvcc) if tool is not None)]
    shared = [f"-DMYOPS_TOOLS={zlib.crc32(repr(tools).encode())}", f"-DTORCH_TARGET_VERSION={TORCH_TARGET}"]
    shared += [f"-isystem {path}" for path in includes]
    strict = os.environ.get("MYOPS_WERROR") == "1"
    warnings = ["-Wall", "-Wextra", *(["-Werror"] if strict else [])]
    cxxflags = [
        "-std=c++17",
        *optimise,
        *BASE_FLAGS.get(machine, []),
        "-fPIC",
        "-fvisibility=hidden",
        *warnings,
        *shared,
    ]
    cxxflags += [os.environ.get("CXXFLAGS", "")]
    # --no-as-needed: libtorch.so is empty, so the linker would drop it, and only it brings libtorch_cuda into scope.
    ldflags = ["-shared", f"-L{torch_lib}", "-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu"]
    ldflags += [os.environ.get("LDFLAGS", "")]

    with open(WORK / "build.ninja", "w") as file:
        n = Writer(file, width=120)
        n.variable("cxxflags", cxxflags)
        n.rule("cxx", f"{cxx} -MMD -MF $out.d $cxxflags $own -c $in -o $out", depfile="$out.d", deps="gcc")
        n.rule("link", f"{cxx} $in $ldflags -o $out")
        objects = []
        for source in sorted([*KERNELS.glob("*.cpp"), *KERNELS.glob("cpu/**/*.cpp")]):
            level = source.stem if source.parent.name == "isa" else ""
            if level and level not in levels:
                continue
            flags = list(ISA_FLAGS.get(level, []))
            if source.stem == "backend":
                flags.append(f"-DMYOPS_BUILD_TORCH={torch_version()}")
            objects += n.build(object_name(source), "cxx", str(source), variables={"own": flags})
        n.build("libmyops_cpu.so", "link", objects, variables={"ldflags": ldflags})
        if nvcc is not None:
            by = [shlex.quote(flag) for flag in host_flags()]
            # A kernel whose registers spill computes right and slowly: ptxas tells.
            device = ["-Xptxas -warn-spills,-warn-lmem-usage", *(["-Werror all-warnings"] if strict else [])]
            host = ",".join(["-fPIC", "-fvisibility=hidden", *warnings])
            targets = [*arch_flags(), hopper_flag()]
            n.variable("nvccflags", ["-std=c++17", *optimise, *by, f"-Xcompiler {host}", *device, *targets, *shared])
            n.rule("nvcc", f"{nvcc} -MD -MF $out.d $nvccflags -c $in -o $out", depfile="$out.d", deps="gcc")
            own = [*nvcc_paths(nvcc, "INCLUDES"), hopper_flag()]
            objects = []
            for source in sorted(KERNELS.glob("cuda/**/*.cu")):
                objects += n.build(object_name(source), "nvcc", str(source))
            for source in sorted(KERNELS.glob("cuda/**/*.cpp")):  # which launch kernels and hold none
                objects += n.build(object_name(source), "cxx", str(source), variables={"own": own})
            libraries = [*nvcc_paths(nvcc, "LIBRARIES"), "-lcudart_static", "-lrt", "-lpthread", "-ldl"]
            n.build("libmyops_cuda.so", "link", objects, variables={"ldflags": [*ldflags, *libraries]})
        n.close()


def architectures() -> list[str]:
    """MYOPS_CUDA_ARCHS, the lowest first."""
    archs = [arch.strip() for arch in (os.environ.get("MYOPS_CUDA_ARCHS") or "80,90a").split(",")]
    if not all(re.fullmatch(r"\d{2,3}[af]?", arch) for arch in archs):
        raise SystemExit(f"MYOPS_CUDA_ARCHS must be like 80,90a, but is {os.environ['MYOPS_CUDA_ARCHS']!r}")
    if {"90", "90a"} <= set(archs):
        raise SystemExit("MYOPS_CUDA_ARCHS=90,90a: leave 90 out, in whose code the kernels of a Hopper are empty")
    return sorted(archs, key=lambda arch: int(arch.rstrip("af")))


def arch_flags() -> list[str]:
    lowest, *others = architectures()
    codes = [f"-gencode=arch=compute_{lowest},code=[sm_{lowest},compute_{lowest}]"]
    return [*codes, *(f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in others)]


def hopper_flag() -> str:
    """Tells kernels/cuda/launch.h whether Hopper's own machine code is among them."""
    return f"-DMYOPS_SM90A={int('90a' in architectures())}"


def nvcc_paths(nvcc: Path, variable: str) -> list[str]:
    """The flags that nvcc would hand on as INCLUDES or LIBRARIES."""
    found = re.search(rf"^#\$ {variable}=(.*)", dry_run(nvcc).stderr, re.M)
    return shlex.split(found[1]) if found else []


def object_name(source: Path) -> str:
    return "_".join(source.relative_to(KERNELS).parts) + ".o"


def version_of(command: str | Path) -> str:
    """What a compiler says of itself."""
    return subprocess.run([*shlex.split(str(command)), "--version"], capture_output=True, text=True).stdout


def torch_version() -> str:
    import torch

    return str(torch.__version__)


class PlatformWheel(bdist_wheel):
    """py3-none-<platform>: native code, but no Python ABI."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.root_is_pure = False

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension("myops.libmyops_cpu", sources=[]), Extension("myops.libmyops_cuda", sources=[])],
    cmdclass={"build_ext": NinjaBuild, "bdist_wheel": PlatformWheel},
)
