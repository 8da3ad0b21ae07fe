"""The support matrix of the README: which sparse products work, by trying them. `python -m benchmarks.sparse_support`.

One row a pair of layouts, for native torch and myops: the dtypes whose product is right (against a dense product in a
wider type), whether both gradients come, and whether torch.compile takes the call whole. Nothing here is written down
by hand: an exception, a wrong value or a wrong layout of a gradient counts as "no".
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import myops

LAYOUTS = {
    "COO": torch.sparse_coo, "CSR": torch.sparse_csr, "CSC": torch.sparse_csc, "BSR": torch.sparse_bsr,
    "BSC": torch.sparse_bsc,
}  # fmt: skip
DTYPES = {
    "f32": torch.float32, "f64": torch.float64, "bf16": torch.bfloat16, "f16": torch.float16, "c64": torch.complex64,
    "c128": torch.complex128, "i8": torch.int8, "u8": torch.uint8, "i16": torch.int16, "i32": torch.int32,
    "i64": torch.int64,
}  # fmt: skip
PAIRS = [
    ("COO", "dense"), ("CSR", "dense"), ("CSC", "dense"), ("BSR", "dense"), ("BSC", "dense"), ("dense", "COO"),
    ("dense", "CSR"), ("dense", "CSC"), ("dense", "BSR"), ("dense", "BSC"), ("COO", "COO"), ("CSR", "CSR"),
    ("CSC", "CSC"), ("CSR", "CSC"), ("COO", "CSR"), ("BSR", "BSR"), ("BSC", "CSR"),
]  # fmt: skip
Product = Callable[[Any, Any], Any]


def operand(kind: str, shape: tuple[int, int], dtype: torch.dtype) -> Any:
    """Whole numbers, half of them zero, in a layout."""
    generator = torch.Generator().manual_seed(shape[1])
    dense = torch.randint(0, 4, shape, generator=generator) * torch.randint(0, 2, shape, generator=generator)
    if kind == "dense":
        return dense.to(dtype)
    if kind == "CSR (myops)":
        return myops.CSR.from_torch(dense.to(dtype))
    return dense.to(dtype).to_sparse(layout=LAYOUTS[kind], blocksize=(2, 2) if kind.startswith("BS") else None)


def as_dense(t: Any) -> Tensor:
    """The values, whatever the layout."""
    return t if isinstance(t, Tensor) and not isinstance(t, myops.CSR) and t.layout == torch.strided else t.to_dense()


def succeeds(check: Callable[[], bool]) -> bool:
    """Whether `check` returns True; an exception is a no."""
    try:
        return check()
    except Exception:
        return False


def is_right(product: Product, left: str, right: str, dtype: torch.dtype) -> bool:
    """Whether the product equals the dense one."""
    a, b = operand(left, (6, 8), dtype), operand(right, (8, 4), dtype)
    wide = torch.complex128 if dtype.is_complex else torch.int64 if not dtype.is_floating_point else torch.float64
    expected = operand("dense", (6, 8), wide) @ operand("dense", (8, 4), wide)
    return torch.equal(as_dense(product(a, b)).to(wide), expected)


def has_gradients(product: Product, left: str, right: str) -> bool:
    """Whether both gradients come, sparse ones in the layout of their argument."""
    a, b = (operand(k, s, torch.float32).requires_grad_() for k, s in ((left, (6, 8)), (right, (8, 4))))
    result = product(a, b)
    if result.layout != torch.strided:
        result = result.coalesce().values() if result.layout == torch.sparse_coo else result.values()
    grads = torch.autograd.grad(result.sum(), (a, b))
    return all(g.layout == x.layout for g, x in zip(grads, (a, b), strict=True))


def compiles(product: Product, left: str, right: str) -> bool:
    """Whether torch.compile(fullgraph=True) takes the call."""
    torch._dynamo.reset()
    a, b = operand(left, (6, 8), torch.float32), operand(right, (8, 4), torch.float32)
    compiled = torch.compile(product, fullgraph=True, backend="aot_eager")
    return torch.equal(as_dense(compiled(a, b)), as_dense(product(a, b)))


def cells(product: Product, left: str, right: str) -> list[str]:
    """Dtypes, gradients, compile."""
    good = [name for name, d in DTYPES.items() if succeeds(lambda d=d: is_right(product, left, right, d))]
    dtypes = "all" if len(good) == len(DTYPES) else "none" if not good else " ".join(good)
    container = "CSR (myops)" in (left, right)
    gradients = succeeds(lambda: container_gradients()) if container else succeeds(
        lambda: has_gradients(product, left, right)
    )  # fmt: skip
    answers = gradients, succeeds(lambda: compiles(product, left, right))
    return [dtypes, *("yes" if answer else "no" for answer in answers)]


def container_gradients() -> bool:
    """Gradients of a myops.CSR live on its values."""
    a, b = operand("CSR (myops)", (6, 8), torch.float32), operand("dense", (8, 4), torch.float32).requires_grad_()
    values = a.values.clone().requires_grad_()
    return all(g is not None for g in torch.autograd.grad((a.with_values(values) @ b).sum(), (values, b)))


def main() -> None:
    """Print the table in Markdown, to go into the README as it is."""
    warnings.simplefilter("ignore")
    print("| operands | native: dtypes | gradients | compile | myops: dtypes | gradients | compile |")
    print("|---|---|---|---|---|---|---|")
    for left, right in PAIRS:
        row = cells(torch.sparse.mm, left, right) + cells(myops.sparse.mm, left, right)
        print(f"| {left} @ {right} | {' | '.join(row)} |")
    row = ["-", "-", "-", *cells(myops.sparse.mm, "CSR (myops)", "dense")]
    print(f"| myops.CSR @ dense | {' | '.join(row)} |")


if __name__ == "__main__":
    main()
