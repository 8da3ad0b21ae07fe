"""myops: matrix multiplication for PyTorch as custom operators, and a switch that puts them under any model.

    myops.addmm(input, mat1, mat2)          a function like torch's
    torch.ops.myops.addmm(input, ...)       the registered operator: gradients, torch.compile, export
    with myops.use(): model(x)              an unmodified model, its matrix products on myops
    myops.stats()                           what ran where
    myops.sparse.mm(a, b), myops.CSR        sparse products, and a sparse matrix that compiles

See README.md; `myops.build_info()` says what is loaded.
"""

__version__ = "0.1.0"

from . import _libraries, dtensor, nn, sparse
from ._libraries import build_info, is_available, isa, isa_levels, peak_gflops, plan
from .compile import inductor_pass
from .csr import CSR
from .ops.add import add, add_
from .ops.addmm import addmm, addmm_, mm
from .ops.bmm import baddbmm, baddbmm_, bmm
from .ops.linear import linear
from .ops.matmul import matmul
from .override import disable, enable, explain, reset_stats, stats, use
from .packed import PackedWeight, pack_weight
from .registration import decompositions

__all__ = [
    "CSR",
    "PackedWeight",
    "add",
    "add_",
    "addmm",
    "addmm_",
    "baddbmm",
    "baddbmm_",
    "bmm",
    "build_info",
    "decompositions",
    "disable",
    "dtensor",
    "enable",
    "explain",
    "inductor_pass",
    "is_available",
    "isa",
    "isa_levels",
    "linear",
    "matmul",
    "mm",
    "nn",
    "pack_weight",
    "peak_gflops",
    "plan",
    "reset_stats",
    "sparse",
    "stats",
    "use",
]

if _libraries.flag("MYOPS_ENABLE"):
    enable()
