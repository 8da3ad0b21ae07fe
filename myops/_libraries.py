"""Loads the libraries of kernels and answers questions about them. Not here: operators (registration.py).

Loading never initialises CUDA and never hides an error: where a library cannot be loaded, `require()` raises at first
use with both torch versions and the loader's own words.
"""

from __future__ import annotations

import ctypes
import os
import re
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

_FOLDER = Path(__file__).resolve().parent
_CPU_LIBRARY = _FOLDER / "libmyops_cpu.so"
_CUDA_LIBRARY = _FOLDER / "libmyops_cuda.so"

# kernels/matrix_view.h: enum class DType.
DTYPE_CODES = {
    torch.float32: 0,
    torch.float64: 1,
    torch.bfloat16: 2,
    torch.float16: 3,
    torch.complex64: 4,
    torch.complex128: 5,
    torch.int8: 6,
    torch.uint8: 7,
    torch.int16: 8,
    torch.int32: 9,
    torch.int64: 10,
}


def _load(path: Path) -> str | None:
    """Why `path` is not loaded, or None where it is."""
    if not path.is_file():
        return f"{path.name} was not built (expected at {path})"
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return str(error.__cause__ or error)  # the cause has the loader's words; torch's own only the path
    return None


cpu_error = _load(_CPU_LIBRARY)
if cpu_error is not None:
    cuda_error: str | None = "the CPU library, which holds the schemas, is not loaded"
elif torch.version.cuda is None:
    cuda_error = f"torch {torch.__version__} is built without CUDA"
else:
    cuda_error = _load(_CUDA_LIBRARY)


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(_CPU_LIBRARY))
    for name in ("myops_isa", "myops_isa_levels", "myops_cpu_gemm", "myops_plan"):
        getattr(library, name).restype = ctypes.c_char_p
    library.myops_plan.argtypes = [ctypes.c_char_p, ctypes.c_int, *[ctypes.c_int64] * 4, *[ctypes.c_int] * 4]
    library.myops_panels.restype = ctypes.c_int64
    library.myops_panels.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_char_p]
    library.myops_peak_rate.restype = ctypes.c_double
    library.myops_peak_rate.argtypes = [ctypes.c_int, ctypes.c_double]
    return library


def load_failure(library: str, error: str | None) -> str:
    """The message for a library that is needed but missing."""
    built = _build_torch_from_file()
    versions = f"built with torch {built}, running torch {torch.__version__}"
    if tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2]) < (2, 11):
        versions += ", and myops needs torch >= 2.11"
    return f"the {library} library of myops is not loaded ({versions}): {error}"


@cache
def _build_torch_from_file() -> str:
    # Read from the file and not from the library: it may be the one that does not load.
    if not _CPU_LIBRARY.is_file():
        return "of unknown version"
    found = re.search(rb"myops built with torch ([^\0]+)\0", _CPU_LIBRARY.read_bytes())
    return found[1].decode() if found else "of unknown version"


def flag(name: str) -> bool:
    """Whether an environment variable is 1; unset, empty and 0 say no."""
    value = os.environ.get(name, "0") or "0"
    if value not in ("0", "1"):
        raise ValueError(f"{name} must be 0 or 1, but is {value!r}")
    return value == "1"


def require() -> None:
    """Raise ImportError where the CPU library, and with it every operator, is missing."""
    if cpu_error is not None:
        raise ImportError(load_failure("CPU", cpu_error))


def is_available(device: str = "cpu") -> bool:
    """Whether operators run on `device`, "cpu" or "cuda" (else a ValueError). Never initialises CUDA."""
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device must be 'cpu' or 'cuda', but got {device!r}")
    return (cpu_error if device == "cpu" else cuda_error) is None


def isa() -> str:
    """The CPU instruction set level in use: "baseline", "avx2", "avx512", "avx512_bf16", "amx", "amx_fp16" or "neon".

    `MYOPS_ISA` in the environment forces a level; one that the machine lacks is a RuntimeError.
    """
    require()
    name = _library().myops_isa()
    if name is None:
        raise RuntimeError(f"MYOPS_ISA={os.environ.get('MYOPS_ISA')} is not available here: {', '.join(isa_levels())}")
    return name.decode()


def isa_levels() -> list[str]:
    """Every level that this machine and this build can run, best first."""
    require()
    return _library().myops_isa_levels().decode().split(",")


def cpu_gemm() -> str:
    """Whose kernels dense products take on the CPU, `MYOPS_CPU_GEMM` in the environment at the first call.

    "own": myops's; "native": torch's wherever torch has one for the operands as they are; "auto" (the default): torch's
    where they have been measured to be faster (kernels/cpu/gemm/native.h). Anything else is a RuntimeError.
    """
    require()
    name = _library().myops_cpu_gemm()
    if name is None:
        raise RuntimeError(f"MYOPS_CPU_GEMM must be own, native or auto, but is {os.environ.get('MYOPS_CPU_GEMM')}")
    return name.decode()


def panel_header(dtype: torch.dtype, n: int, k: int) -> bytes:
    """How an (n, k) weight is packed by the level in use: the header of kernels/cpu/gemm/panels.h."""
    isa()  # an exception out of C++ would end the process
    header = ctypes.create_string_buffer(64)
    _library().myops_panels(DTYPE_CODES[dtype], n, k, header)
    return header.raw


def panel_bytes(dtype: torch.dtype, n: int, k: int) -> int:
    """Bytes that an (n, k) weight takes when it is packed by the level in use."""
    isa()
    size = int(_library().myops_panels(DTYPE_CODES[dtype], n, k, ctypes.create_string_buffer(64)))
    if size < 0:
        raise RuntimeError(f"not enough memory for the panels of a weight of shape [{n}, {k}]")
    return size


def set_batch_invariant(on: bool) -> None:
    """Make every product from now on batch-invariant, or none; `override.py` counts who asked for it."""
    require()
    for path, error in ((_CPU_LIBRARY, cpu_error), (_CUDA_LIBRARY, cuda_error)):
        if error is None:
            ctypes.CDLL(str(path)).myops_set_batch_invariant(int(on))


def said(question: Callable[[], str]) -> str:
    """The answer of `isa` or `cpu_gemm`, or what is wrong with the variable that it goes by."""
    try:
        return question()
    except RuntimeError as error:
        return str(error)


def build_info() -> dict[str, Any]:
    """Versions and libraries as a plain dictionary: what was built, what runs, and why something is missing."""
    from . import __version__

    return {
        "myops": __version__,
        "torch_built": _build_torch_from_file(),
        "torch_running": str(torch.__version__),
        "cpu": cpu_error or "loaded",
        "cuda": cuda_error or "loaded",
        "isa": said(isa) if cpu_error is None else None,
        "isa_levels": isa_levels() if cpu_error is None else [],
        "cpu_gemm": said(cpu_gemm) if cpu_error is None else None,
        "threads": torch.get_num_threads(),
    }


def _dtype_code(name: str, dtype: torch.dtype) -> int:
    if dtype not in DTYPE_CODES:
        raise NotImplementedError(f"myops.{name} is not implemented for dtype {str(dtype).removeprefix('torch.')}")
    return DTYPE_CODES[dtype]


def _check_counts(**counts: tuple[int, int]) -> None:
    for name, (value, least) in counts.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, but got {value}")
        most = 2**31 if name == "threads" else 2**48  # what C would take for another number is far above
        if value >= most:
            raise ValueError(f"{name} must be less than {most}, but got {value}")


def plan(
    m: int,
    n: int,
    k: int,
    *,
    dtype: torch.dtype = torch.float32,
    batch: int = 1,
    transpose_a: bool = False,
    transpose_b: bool = False,
    isa_level: str | None = None,
    threads: int | None = None,
    batch_invariant: bool = False,
) -> str:
    """How the CPU engine would compute an (m, k) @ (k, n) product, as one line. Runs no kernel.

    Args:
        m, n, k: rows, columns and depth of the product.
        batch: how many such products; contiguous.
        transpose_a, transpose_b: whether an operand is the transpose of a row-major matrix, as in `x @ W.T`.
        isa_level: any level, also one this machine lacks: planning is a pure function. None: the one in use.
        threads: None: torch's.

    Returns:
        "key=value" pairs and the rule that chose them: the driver, the compute type, tiles, panels, what is packed,
        parts for threads. They describe this version and are no API.

    `route=native` at its end: `MYOPS_CPU_GEMM=auto` leaves it to torch's kernel, which has been measured to be faster.

    Raises:
        NotImplementedError: a dtype without a kernel.
        ValueError: an unknown level; a size or thread count below 1 (k: below 0), or that no tensor has.
    """
    require()
    threads = torch.get_num_threads() if threads is None else threads
    _check_counts(m=(m, 1), n=(n, 1), k=(k, 0), batch=(batch, 1), threads=(threads, 1))
    text = _library().myops_plan(
        (isa_level or isa()).encode(), _dtype_code("plan", dtype), batch, m, n, k, transpose_a, transpose_b,
        threads, batch_invariant,
    )  # fmt: skip
    if text is None:
        levels = "baseline, avx2, avx512, avx512_bf16, amx, amx_fp16 or neon"
        raise ValueError(f"isa_level must be {levels}, but got {isa_level!r}")
    return text.decode()


def peak_gflops(dtype: torch.dtype = torch.float32, threads: int = 1, seconds: float = 0.1) -> float:
    """Measured multiply-add peak of the level in use, in GFLOP/s over all `threads`: the roof of the benchmarks.

    Raises:
        NotImplementedError: a dtype without a kernel.
        ValueError: no threads.
    """
    isa()
    _check_counts(threads=(threads, 1))
    code, rates = _dtype_code("peak_gflops", dtype), [0.0] * threads

    def work(i: int) -> None:
        rates[i] = _library().myops_peak_rate(code, seconds)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(rates)
