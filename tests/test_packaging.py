"""What is shipped: symbols of the libraries, import behaviour, failures to load, forced ISA levels, sdist and wheel."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

import myops

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(myops.__file__).resolve().parent
LIBRARIES = sorted(PACKAGE.glob("*.so"))
FROM_SOURCE = (ROOT / "setup.py").is_file() and PACKAGE.parent == ROOT


def run(code: str, cwd: Path = ROOT, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python code in a fresh process that finds `cwd` first."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(cwd), **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert not check or done.returncode == 0, done.stderr
    return done


# Symbols.

# What a library may need beside the versioned names of the C and C++ runtimes: the C shims of torch. Every C++ name of
# torch, from at::, c10:: or torch::, is tied to one release. Two are asked for weakly, and done without where they are
# missing: cuda/backend.cpp's question whether TF32 is allowed.
ALLOWED = re.compile(r"aoti_torch_\w+|torch_\w+|_ITM_\w+|__gmon_start__")
WEAK = {"_ZN2at13globalContextEv", "_ZNK2at7Context16float32PrecisionENS_14Float32BackendENS_9Float32OpE"}
RUNTIMES = ("GLIBC_", "GLIBCXX_", "GCC_", "CXXABI_")

needs_nm = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("nm") is None or not LIBRARIES,
    reason="needs built libraries, nm, and the symbol versions of Linux",
)


@needs_nm
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name)
def test_undefined_symbols(library: Path) -> None:
    command = ["nm", "-D", "--undefined-only", str(library)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\n")
    found = [line.split()[-2:] for line in lines if line.strip()]
    symbols = [name.partition("@") for kind, name in found if not (kind == "w" and name in WEAK)]
    foreign = [
        name
        for name, _, version in symbols
        if not version.lstrip("@").startswith(RUNTIMES) and not ALLOWED.fullmatch(name)
    ]
    assert foreign == []
    assert any(name.startswith("aoti_torch_") for name, _, _ in symbols)


@needs_nm
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name)
def test_exports_little(library: Path) -> None:
    """-fvisibility=hidden: of ours, the C interface alone is visible, so that two builds in one process do not mix."""
    text = subprocess.run(
        ["nm", "-D", "--defined-only", str(library)], check=True, capture_output=True, text=True
    ).stdout
    ours = {line.split()[-1] for line in text.splitlines() if "myops" in line}
    assert all(name.startswith("myops_") for name in ours), sorted(ours)


@needs_nm
@pytest.mark.skipif(shutil.which("readelf") is None, reason="needs readelf")
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name)
def test_links_against_torch_by_name_only(library: Path) -> None:
    text = subprocess.run(["readelf", "-d", str(library)], check=True, capture_output=True, text=True).stdout
    needed = set(re.findall(r"NEEDED.*\[(.*)\]", text))
    assert {"libtorch.so", "libtorch_cpu.so"} <= needed
    assert not {name for name in needed if "python" in name or "cublas" in name or "cudart" in name}
    assert not re.search(r"R(UN)?PATH", text), "a path of the build machine is in the library"


def test_isa_levels_share_no_function() -> None:
    """Of functions with one name the linker keeps one, perhaps with instructions that another level's CPUs lack."""
    work = ROOT / "build" / "ninja"
    plan = (work / "build.ninja").read_text() if (work / "build.ninja").is_file() else ""
    objects = [work / name for name in re.findall(r"^build (cpu_\S+\.o):", plan, re.M)]
    if not objects or shutil.which("nm") is None:
        pytest.skip("needs nm and the objects of a build in this checkout")
    text = subprocess.run(["nm", "-A", *map(str, objects)], check=True, capture_output=True, text=True).stdout
    weak = [line.split(":") for line in text.splitlines() if " W " in line]
    where: dict[str, set[str]] = {}
    for path, symbol in weak:
        where.setdefault(symbol.split()[-1], set()).add(Path(path).stem)
    shared = {name: units for name, units in where.items() if len(units) > 1 and any("_isa_" in u for u in units)}
    assert shared == {}


# Import.

IMPORT = """
import sys, torch
before = set(sys.modules)
import myops
new = {name.partition(".")[0] for name in set(sys.modules) - before}
for name in ("transformers", "numpy", "matplotlib", "rich", "torchvision", "scipy", "pandas"):
    assert name not in new, f"import myops imports {name}"
assert "torch._inductor" not in set(sys.modules) - before
assert not torch.cuda.is_initialized()
assert not torch.cuda._is_in_bad_fork()
print(myops.__version__)
"""


def test_import_is_light() -> None:
    done = run(IMPORT)
    assert done.stdout.strip() == myops.__version__
    assert done.stderr == ""


def test_import_without_cuda_devices() -> None:
    done = run("import myops, torch; print(myops.mm(torch.eye(2), torch.eye(2)).sum().item())", CUDA_VISIBLE_DEVICES="")
    assert done.stdout.strip() == "2.0"


def test_fork_after_import() -> None:
    """A worker process of a data loader may be forked after the import and after a call."""
    code = """
import multiprocessing, torch, myops
a = torch.ones(64, 64)
assert float(myops.mm(a, a).sum()) == 64 ** 3
def work(queue): queue.put(float(myops.mm(a, a).sum()))
context = multiprocessing.get_context("fork")
queue = context.Queue()
process = context.Process(target=work, args=(queue,))
process.start()
print(queue.get(timeout=600))
process.join(60)
"""
    assert run(code, OMP_NUM_THREADS="1").stdout.strip() == str(float(64**3))


def test_every_public_name_has_a_docstring() -> None:
    assert [name for name in myops.__all__ if not getattr(myops, name).__doc__] == []
    assert sorted(myops.__all__) == myops.__all__
    assert (PACKAGE / "py.typed").is_file()


def test_operators_are_listed() -> None:
    listed = run("import myops, torch; print(' '.join(dir(torch.ops.myops)))").stdout.split()
    assert {"add", "add_", "mm", "addmm", "addmm_", "bmm", "baddbmm", "baddbmm_", "matmul", "linear"} <= set(listed)


# Failures to load.

BROKEN = """
import torch, myops
assert not myops.is_available()
assert not myops.is_available("cuda")
info = myops.build_info()
assert info["cpu"] != "loaded" and info["isa"] is None, info
x = torch.ones(2, 2)
calls = [
    lambda: myops.mm(x, x), lambda: myops.addmm(x, x, x), lambda: myops.add(x, x), lambda: myops.bmm(x[None], x[None]),
    lambda: myops.matmul(x, x), lambda: myops.linear(x, x), lambda: myops.mm(x, x, out=x), lambda: myops.addmm_(x, x, x),
    lambda: myops.isa(), lambda: myops.plan(1, 1, 1), lambda: myops.enable(), lambda: myops.use().__enter__(),
    lambda: myops.inductor_pass(), lambda: myops.nn.swap_(torch.nn.Linear(2, 2)), lambda: myops.decompositions(),
]
messages = set()
for i, call in enumerate(calls):
    try:
        call()
    except ImportError as error:
        messages.add(str(error))
    else:
        raise AssertionError(f"call {i} did not fail")
(message,) = messages
print(message)
assert torch.mm(x, x)[0, 0] == 2
"""


def broken_copy(folder: Path, library: bytes | None) -> None:
    shutil.copytree(PACKAGE, folder / "myops", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    if library is not None:
        (folder / "myops" / "libmyops_cpu.so").write_bytes(library)


NOT_A_LIBRARY = "(?i)file too short|invalid elf header|not a mach-o|slice is not valid"
# What a library carries in its data, read without loading it.
OTHER_TORCH = b"myops built with torch 2.98.7+other\0"


@pytest.mark.parametrize(
    ("library", "built", "words"),
    [
        (b"this is not a library" * 9 + OTHER_TORCH + b"nor is this", "2.98.7+other", NOT_A_LIBRARY),
        (b"", "of unknown version", NOT_A_LIBRARY),
        (None, "of unknown version", "was not built"),
    ],
    ids=["garbage", "empty", "missing"],
)
def test_failure_to_load_names_both_versions(tmp_path: Path, library: bytes | None, built: str, words: str) -> None:
    broken_copy(tmp_path, library)
    message = run(BROKEN, cwd=tmp_path).stdout
    assert f"built with torch {built}," in message
    assert f"running torch {torch.__version__}" in message
    assert "libmyops_cpu.so" in message
    assert re.search(words, message), message


def test_undefined_symbol_is_reported(tmp_path: Path) -> None:
    """The usual failure after an upgrade: the loader's own words reach the user."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler to make a library that does not load")
    broken_copy(tmp_path, None)
    source = tmp_path / "missing.c"
    source.write_text(
        "void symbol_of_another_torch(void);\nvoid (*needed)(void) = symbol_of_another_torch;\n"
        'const char record[] = "myops built with torch 2.98.7+other";\n'
    )
    subprocess.run(
        [compiler, "-shared", "-fPIC", str(source), "-o", str(tmp_path / "myops" / "libmyops_cpu.so")], check=True
    )
    message = run(BROKEN, cwd=tmp_path).stdout
    assert "undefined symbol: symbol_of_another_torch" in message
    assert "built with torch 2.98.7+other" in message


# ISA levels.

FORCED = """
import torch, myops
print(myops.isa())
for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.int8, torch.int64):
    a = torch.randint(-3, 4, (37, 65)).to(dtype)
    b = torch.randint(-3, 4, (65, 41)).to(dtype)
    wide = torch.complex128 if dtype.is_complex else torch.float64 if dtype.is_floating_point else torch.int64
    assert torch.equal(myops.mm(a, b), (a.to(wide) @ b.to(wide)).to(dtype)), dtype
    assert torch.equal(myops.add(a, a, alpha=2), a + a + a), dtype
"""


@pytest.mark.parametrize("level", myops.isa_levels() if myops.is_available() else [])
def test_forced_isa_level(level: str) -> None:
    assert run(FORCED, MYOPS_ISA=level).stdout.strip() == level


@pytest.mark.parametrize(
    "call",
    [
        "myops.isa()", "myops.peak_gflops(seconds=0)", "myops.pack_weight(torch.ones(3, 3))",
        "myops.PackedWeight(torch.zeros(128, dtype=torch.uint8), (3, 3), torch.float32)",
        "torch.ops.myops.pack_weight(torch.empty(3, 3, device='meta'))",
    ],
)  # fmt: skip
def test_a_forced_level_that_is_not_there_is_an_error(call: str) -> None:
    code = f"import torch, myops\ntry: {call}\nexcept RuntimeError as error: print(error)"
    assert run(code, MYOPS_ISA="none").stdout.startswith("MYOPS_ISA=none is not available here")


def test_default_isa_level_is_the_best() -> None:
    code = "import os; os.environ.pop('MYOPS_ISA', None); import myops; print(myops.isa(), *myops.isa_levels())"
    chosen, *levels = run(code).stdout.split()
    assert chosen == levels[0]
    assert levels[-1] == "baseline"


@pytest.mark.parametrize("level", ["avx1024", "AVX2"])
def test_unknown_isa_level(level: str) -> None:
    code = """
import torch, myops
for call in (myops.isa, lambda: myops.mm(torch.eye(2), torch.eye(2))):
    try:
        call()
    except RuntimeError as error:
        print(error)
    else:
        raise AssertionError("an unknown level was accepted")
"""
    lines = run(code, MYOPS_ISA=level).stdout.splitlines()
    assert len(lines) == 2
    assert all(level in line for line in lines), lines


def test_build_info() -> None:
    info = myops.build_info()
    assert info["myops"] == myops.__version__
    assert info["torch_running"] == torch.__version__
    assert re.match(r"\d+\.\d+", info["torch_built"])
    assert info["cpu"] == "loaded"
    assert info["cuda"] == "loaded" or (info["cuda"] and not myops.is_available("cuda"))
    assert info["cpu_gemm"] == os.environ.get("MYOPS_CPU_GEMM", "auto")
    assert info["isa"] in info["isa_levels"]


# Source and binary distributions.


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, so that building leaves nothing in the checkout."""
    if not FROM_SOURCE:
        pytest.skip("the package is installed: its sources are not here")
    folder = tmp_path_factory.mktemp("source") / "myops"
    skipped = shutil.ignore_patterns(".*", "build", "dist", "*.so", "*.egg-info", "__pycache__", "*.o")
    shutil.copytree(ROOT, folder, ignore=skipped)
    return folder


def sources() -> set[str]:
    """Everything that a build reads, relative to the root."""
    wanted = {"myops_autoload.py", "setup.py", "pyproject.toml", "README.md", "LICENSE", "myops/py.typed"}
    for folder, patterns in (("kernels", ("*.cpp", "*.h", "*.cu", "*.cuh", "*.inc", "*.hpp")), ("myops", ("*.py",))):
        for pattern in patterns:
            wanted |= {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob(pattern)}
    return wanted


SETUP = "import setuptools; setuptools.setup = lambda **_: None; import setup; "


@pytest.mark.skipif(not FROM_SOURCE, reason="setup.py is not here")
@pytest.mark.parametrize(
    ("archs", "lowest", "others", "hopper"),
    [("80,90a", "80", ["90a"], 1), ("90a,80", "80", ["90a"], 1), ("80", "80", [], 0), ("120,90", "90", ["120"], 0)],
)
def test_architectures(archs: str, lowest: str, others: list[str], hopper: int) -> None:
    """PTX for what comes later is of the lowest, and the library knows whether it has Hopper's own machine code."""
    code = SETUP + "print(*setup.arch_flags(), setup.hopper_flag())"
    codes = [f"-gencode=arch=compute_{lowest},code=[sm_{lowest},compute_{lowest}]"]
    codes += [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in others]
    assert run(code, MYOPS_CUDA_ARCHS=archs).stdout.split() == [*codes, f"-DMYOPS_SM90A={hopper}"]
    assert "leave 90 out" in run(code, check=False, MYOPS_CUDA_ARCHS="80,90,90a").stderr


def executable(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(0o755)
    return path


@pytest.mark.skipif(not FROM_SOURCE, reason="setup.py is not here")
@pytest.mark.parametrize(
    ("wish", "nvcc", "found", "words"),
    [
        ("auto", "exit 0", True, "nvcc at "),
        ("auto", "", False, "no nvcc in CUDA_HOME="),
        ("auto", "cannot run", False, "Permission denied"),
        ("auto", "echo 'unsupported compute_90a' >&2; exit 1", False, "nvcc: unsupported compute_90a"),
        ("1", "exit 0", True, "nvcc at "),
        ("1", "", None, "MYOPS_CUDA=1, but no nvcc in CUDA_HOME="),
        ("1", "echo 'unsupported compute_90a' >&2; exit 1", None, "MYOPS_CUDA=1, but "),
        ("0", "exit 0", False, "MYOPS_CUDA=0"),
        ("yes", "exit 0", None, "MYOPS_CUDA must be auto, 1 or 0, but is 'yes'"),
    ],
)
def test_whether_cuda_is_built(tmp_path: Path, wish: str, nvcc: str, found: bool | None, words: str) -> None:
    """found: None where the build stops."""
    if nvcc:
        executable(tmp_path / "bin" / "nvcc", nvcc).chmod(0o644 if nvcc == "cannot run" else 0o755)
    code = SETUP + "nvcc, reason = setup.decide_cuda(); print(nvcc is not None, reason)"
    done = run(code, check=found is not None, MYOPS_CUDA=wish, CUDA_HOME=str(tmp_path))
    assert words in (done.stderr if found is None else done.stdout)
    assert found is None or done.stdout.startswith(str(found))


@pytest.mark.skipif(not FROM_SOURCE, reason="setup.py is not here")
def test_what_the_build_refuses(tmp_path: Path) -> None:
    clang = executable(tmp_path / "clang++", "echo '#define __GNUC__ 4'; echo '#define __clang__ 1'")
    for code, words, environment in (
        ("setup.compiler()", "is another compiler", {"CXX": str(clang)}),
        ("setup.compiler()", "cannot be run", {"CXX": str(tmp_path / "none")}),
        ("import torch; torch.__version__ = '2.10.1'; setup.torch_paths()", "myops needs torch >= 2.11", {}),
        (
            "assert not setup.host_flags(), setup.host_flags()",
            "AssertionError: ['-ccbin=g++', '-Xcompiler=-fa=b\\\\,c']",
            {"CXX": "ccache g++ -fa=b,c"},
        ),
        ("setup.arch_flags()", "MYOPS_CUDA_ARCHS must be like 80,90a, but is '9.0'", {"MYOPS_CUDA_ARCHS": "9.0"}),
    ):
        assert words in run(SETUP + code, check=False, **environment).stderr


# Answers what setup.py asks, notes what it compiles and links, and makes empty files.
COMPILER = """
echo "$*" >> "$(dirname "$0")/asked"
case "$*" in *-dM*) echo '#define __GNUC__ 12'; exit;; *--version*) cat "$(dirname "$0")/version"; exit;; esac
while [ $# -gt 0 ]; do case "$1" in -o) : > "$2";; -MF) echo 'x:' > "$2";; esac; shift; done
"""


def test_builds_compile_what_changed_and_leave_nothing_behind(tree: Path, tmp_path: Path) -> None:
    compiler = executable(tmp_path / "g++", COMPILER)
    environment = {**os.environ, "CXX": str(compiler), "CXXFLAGS": "-DMINE", "LDFLAGS": "-lmine", "MYOPS_CUDA": "0"}

    def build(version: str, *command: str) -> tuple[list[str], list[str]]:
        (tmp_path / "version").write_text(version)
        (tmp_path / "asked").write_text("")
        done = subprocess.run(
            [sys.executable, "setup.py", *command], cwd=tree, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        asked = (tmp_path / "asked").read_text().splitlines()
        return [line for line in asked if " -c " in line], [line for line in asked if "-shared" in line]

    def wheel() -> set[str]:
        (path,) = tmp_path.glob("dist/*.whl")
        with zipfile.ZipFile(path) as archive:
            return {name for name in archive.namelist() if name.endswith(".so")}

    library = tree / "myops" / "libmyops_cuda.so"
    library.write_text("of an earlier build")
    compiled, linked = build("12", "build_ext", "--inplace")
    assert not library.exists()
    assert len(compiled) > 10
    assert all("-DMINE" in line for line in compiled)
    assert len(linked) == 1
    assert "-lmine" in linked[0]
    library.write_text("of an earlier build")
    old = next((tree / "build").glob("lib*")) / "myops" / "libmyops_cuda.so"
    old.write_text("of an earlier build")
    assert build("12", "bdist_wheel", "--dist-dir", str(tmp_path / "dist")) == ([], [])
    assert wheel() == {"myops/libmyops_cpu.so"}
    assert len(build("13", "build_ext", "--inplace")[0]) == len(compiled)  # by another compiler


def test_sdist_contains_every_source(tree: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("build"):
        command = ["-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path)]
    else:
        command = ["setup.py", "sdist", "--dist-dir", str(tmp_path)]
    done = subprocess.run([sys.executable, *command], cwd=tree, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    assert sources() - names == set()
    binaries = {name for name in names if name.endswith((".so", ".o", ".pyc", ".cubin"))}
    assert not binaries
    assert {"tests/conftest.py", "tests/test_packaging.py", "Makefile", "requirements.txt"} <= names
    assert not [name for name in names if name.startswith("benchmarks/results/")]  # 14 MB


def test_metadata_without_torch(tree: Path) -> None:
    """Installers ask for requirements and metadata in an environment without torch."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "target = sys.argv[1]\n"
        "from setuptools import build_meta as backend\n"
        "backend.get_requires_for_build_wheel()\n"
        "backend.prepare_metadata_for_build_wheel(target)"
    )
    target = tree.parent / "metadata"
    target.mkdir()
    subprocess.run([sys.executable, "-c", code, str(target)], cwd=tree, check=True, capture_output=True, timeout=600)
    (metadata,) = target.glob("*.dist-info/METADATA")
    text = metadata.read_text()
    assert f"Version: {myops.__version__}" in text
    assert "Requires-Dist: torch>=" in text


def test_wheel(tree: Path, tmp_path: Path) -> None:
    """The wheel of what is built here, put together without compiling again."""
    if not LIBRARIES:
        pytest.skip("nothing is built")

    def build(*command: str) -> None:
        done = subprocess.run(
            [sys.executable, "setup.py", "-q", *command], cwd=tree, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr

    build("build_py")
    (work,) = (tree / "build").glob("lib*/myops")
    for library in LIBRARIES:
        shutil.copy2(library, work)
    build("bdist_wheel", "--skip-build", "--dist-dir", str(tmp_path))
    (wheel,) = tmp_path.glob("*.whl")
    name, version, python, abi, platform = wheel.stem.split("-")
    assert (name, version, python, abi) == ("myops", myops.__version__, "py3", "none")
    assert platform != "any"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        record = archive.read(next(n for n in names if n.endswith("/WHEEL"))).decode()
    assert "Root-Is-Purelib: false" in record
    modules = {path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*.py")}
    assert modules | {"myops/py.typed", "myops/libmyops_cpu.so", "myops_autoload.py"} <= names
    points = next(n for n in names if n.endswith("/entry_points.txt"))
    with zipfile.ZipFile(wheel) as archive:
        declared = archive.read(points).decode()
    assert "myops = myops.compile:backend" in declared
    assert "myops = myops_autoload:autoload" in declared
    assert not {n for n in names if n.startswith(("tests/", "kernels/", "benchmarks/"))}
