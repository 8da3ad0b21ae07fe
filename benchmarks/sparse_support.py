"""The support matrix of the README: which sparse products work, by trying them. `python -m benchmarks.sparse_support`.

One row a pair of layouts, for native torch and myops: the dtypes whose product is right (against a dense product in a
wider type) and those whose product is wrong without an error, whether both gradients come, and whether torch.compile
takes the call whole. Nothing here is written down by hand: an exception, a wrong value or a wrong layout of a gradient
counts as "no".
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
    ("CSC", "CSC"), ("CSR", "CSC"), ("COO", "CSR"), ("BSR", "BSR"), ("BSC", "CSR"), ("myops.CSR", "dense"),
]  # fmt: skip
Product = Callable[[Any, Any], Any]


def operand(kind: str, shape: tuple[int, int], dtype: torch.dtype) -> Any:
    """Whole numbers, half of them zero, in a layout."""
    generator = torch.Generator().manual_seed(shape[1])
    dense = torch.randint(0, 4, shape, generator=generator) * torch.randint(0, 2, shape, generator=generator)
    if kind == "dense":
        return dense.to(dtype)
    if kind == "myops.CSR":
        return myops.CSR.from_torch(dense.to(dtype))
    return dense.to(dtype).to_sparse(layout=LAYOUTS[kind], blocksize=(2, 2) if kind.startswith("BS") else None)


def as_dense(t: Any) -> Tensor:
    """The values, whatever the layout."""
    return t if isinstance(t, Tensor) and not isinstance(t, myops.CSR) and t.layout == torch.strided else t.to_dense()


def succeeds(check: Callable[..., bool], *arguments: Any) -> bool:
    """Whether `check` returns True; an exception is a no."""
    try:
        return check(*arguments)
    except Exception:
        return False


def outcome(product: Product, left: str, right: str, dtype: torch.dtype) -> str:
    """Whether the product is "right", equal to the dense one, "wrong", or "refused" with an exception."""
    a, b = operand(left, (6, 8), dtype), operand(right, (8, 4), dtype)
    wide = torch.complex128 if dtype.is_complex else torch.int64 if not dtype.is_floating_point else torch.float64
    expected = operand("dense", (6, 8), wide) @ operand("dense", (8, 4), wide)
    try:
        found = as_dense(product(a, b))
    except Exception:
        return "refused"
    return "right" if torch.equal(found.to(wide), expected) else "wrong"


def among(dtypes: list[str]) -> str:
    """Names of dtypes, in short."""
    return "all" if len(dtypes) == len(DTYPES) else " ".join(dtypes) or "none"


def has_gradients(product: Product, left: str, right: str) -> bool:
    """Whether both gradients come, sparse ones in the layout of their argument; those of a myops.CSR for its values."""
    a, b = (operand(k, s, torch.float32) for k, s in ((left, (6, 8)), (right, (8, 4))))
    leaves = [(x.values if isinstance(x, myops.CSR) else x).requires_grad_() for x in (a, b)]
    result = product(a, b)
    if result.layout != torch.strided:
        result = result.coalesce().values() if result.layout == torch.sparse_coo else result.values()
    grads = torch.autograd.grad(result.sum(), leaves)
    return all(g.layout == x.layout for g, x in zip(grads, leaves, strict=True))


def compiles(product: Product, left: str, right: str) -> bool:
    """Whether torch.compile(fullgraph=True) takes the call."""
    torch._dynamo.reset()
    a, b = operand(left, (6, 8), torch.float32), operand(right, (8, 4), torch.float32)
    compiled = torch.compile(product, fullgraph=True, backend="aot_eager")
    return torch.equal(as_dense(compiled(a, b)), as_dense(product(a, b)))


def cells(product: Product, left: str, right: str) -> list[str]:
    """Dtypes, gradients, compile."""
    outcomes = {name: outcome(product, left, right, dtype) for name, dtype in DTYPES.items()}
    good, wrong = ([name for name in DTYPES if outcomes[name] == what] for what in ("right", "wrong"))
    answers = (succeeds(check, product, left, right) for check in (has_gradients, compiles))
    return [
        among(good) + (f" (wrong: {among(wrong)})" if wrong else ""),
        *("yes" if answer else "no" for answer in answers),
    ]


def row(left: str, right: str) -> str:
    """A line of the table."""
    native = ["-"] * 3 if "myops.CSR" in (left, right) else cells(torch.sparse.mm, left, right)
    return f"| {' | '.join([f'{left} @ {right}', *native, *cells(myops.sparse.mm, left, right)])} |"


def main() -> None:
    """Print the table in Markdown, to go into the README as it is."""
    warnings.simplefilter("ignore")
    print("| operands | native: dtypes | gradients | compile | myops: dtypes | gradients | compile |")
    print("|---|---|---|---|---|---|---|")
    for left, right in PAIRS:
        print(row(left, right))


if __name__ == "__main__":
    main()
