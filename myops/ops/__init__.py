"""The rows of the operator table. Importing one imports all, so that the table's order is always this."""

from . import add, addmm, bmm, linear, matmul  # noqa: F401
