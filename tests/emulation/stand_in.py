"""The sparse operators of myops computed by the emulated CUDA kernels, under everything that stands above them.

    cd tests && python -m pytest -p emulation.stand_in test_sparse.py

Autograd, fakes, the front end and the container stay what they are; the kernels of the CPU key are replaced.
"""

from __future__ import annotations

import torch

import myops

from . import support

SPARSE = ("csr_transpose", "csr_rows", "spmm", "spmm_extremum", "sddmm", "spgemm", "spgemm_backward")

support.load_library()
_library = torch.library.Library("myops", "IMPL", "CPU")
for _name in SPARSE:
    assert hasattr(torch.ops.myops, _name), f"{myops.__name__} has no operator {_name}"
    _library.impl(_name, getattr(torch.ops.myops_emulated, _name).default, allow_override=True)
_sparse_libraries = [torch.library.Library("myops", "IMPL", key) for key in ("SparseCsrCPU", "SparseCPU")]
for _each in _sparse_libraries:
    for _name in ("native_mm", "native_extremum", "native_sampled_addmm", "native_spgemm"):
        _each.impl(_name, getattr(torch.ops.myops_emulated, _name).default, allow_override=True)
    _each.impl("native_bmm", myops.sparse._bmm_in_parts, allow_override=True)  # which has no kernel on CUDA
