"""The rows of the operator tables. Importing one imports all, so that the order is always this."""

from . import add, addmm, bmm, linear, matmul, sddmm, spgemm, spmm, spmm_extremum  # noqa: F401
