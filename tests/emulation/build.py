"""Builds the CUDA kernels as C++ for the CPU, into a library that registers them as torch.ops.myops_emulated.

    python tests/emulation/build.py            # prints the library's path

ninja rebuilds what changed. The directory is MYOPS_EMULATION_DIR, or .build/emulation in the repository.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
NAMESPACE = "myops_emulated"


def default_dir() -> Path:
    return Path(os.environ.get("MYOPS_EMULATION_DIR", REPOSITORY / ".build" / "emulation"))


def _ninja() -> str:
    try:
        import ninja

        return os.path.join(ninja.BIN_DIR, "ninja")
    except ImportError:
        found = shutil.which("ninja")
        if found is None:
            raise RuntimeError("the emulation is built by ninja: pip install ninja") from None
        return found


def _ninja_file(library: Path) -> str:
    from torch.utils.cpp_extension import include_paths, library_paths

    kernels = REPOSITORY / "kernels"
    sources = [*sorted(kernels.glob("cuda/**/*.cu")), *sorted(kernels.glob("cuda/**/*.cpp")), kernels / "library.cpp"]
    sources += sorted(HERE.glob("*.cpp"))
    flags = ["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unknown-pragmas"]
    flags += ["-DMYOPS_CUDA_EMULATION", f"-DMYOPS_NAMESPACE={NAMESPACE}", "-DMYOPS_CUDA_KEY=CPU"]
    flags += ["-DTORCH_TARGET_VERSION=0x020b000000000000", "-include", str(HERE / "cuda_emulation.h")]
    for path in include_paths():
        flags += ["-isystem", path]
    link = ["-shared", "-Wl,--no-as-needed"]
    for path in library_paths():
        link += [f"-L{path}", f"-Wl,-rpath,{path}"]
    link += ["-ltorch", "-ltorch_cpu", "-lc10"]

    cxx = os.environ.get("EMULATION_CXX", os.environ.get("CXX", "g++"))  # torch.compile listens to CXX too
    lines = [
        f"flags = {shlex.join(flags)}",
        "rule compile",
        f"  command = {cxx} -MMD -MF $out.d $flags -x c++ -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        f"  command = {cxx} $in {shlex.join(link)} -o $out",
    ]
    objects = []
    for source in sources:
        name = str(source.relative_to(REPOSITORY)).replace("/", "_") + ".o"
        objects.append(name)
        lines.append(f"build {name}: compile {source}")
    lines.append(f"build {library.name}: link {' '.join(objects)}")
    return "\n".join(lines) + "\n"


def build(build_dir: str | os.PathLike[str] | None = None) -> Path:
    """Returns the path of the up-to-date library. Raises RuntimeError with the compiler's output on failure."""
    directory = Path(build_dir) if build_dir is not None else default_dir()
    directory.mkdir(parents=True, exist_ok=True)
    library = directory / f"{NAMESPACE}.so"
    with open(directory / "lock", "w") as lock:  # test processes in parallel build once
        fcntl.flock(lock, fcntl.LOCK_EX)
        text = _ninja_file(library)
        script = directory / "build.ninja"
        if not script.exists() or script.read_text() != text:
            script.write_text(text)
        jobs = os.environ.get("MAX_JOBS", "2")
        result = subprocess.run(
            [_ninja(), "-C", str(directory), "-j", jobs], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    if result.returncode != 0:
        raise RuntimeError(f"building {library} failed:\n{result.stdout}")
    return library


if __name__ == "__main__":
    print(build(sys.argv[1] if len(sys.argv) > 1 else None))
