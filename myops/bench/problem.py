"""A dense problem as a value: operator, shape, layout, dtype; its operands, flops and bytes.

Layout is one letter per matrix operand:

    N  row-major                          T  transposed view of a row-major matrix
    S  rows (of each batch) twice as far apart as needed: a slice of a wider matrix
    H  batch in the middle, as attention heads lie: (rows, batch, columns) permuted; bmm and baddbmm only
    B  one matrix for the whole batch (batch stride 0); bmm and baddbmm only
    R  one row repeated (row stride 0)    C  one column repeated (column stride 0); add only

C, the added matrix of addmm and baddbmm and the bias of linear: `none`, `row` (a vector over the columns) or `full`.
The activation of linear is applied after torch's own operator, and in ours. A training problem is the call and the
gradients of all operands for a gradient equal to the result.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..activation import ACTIVATIONS, apply

ADDED_FIRST = frozenset({"addmm", "baddbmm"})
BATCHED = frozenset({"bmm", "baddbmm"})


@dataclass(frozen=True)
class Problem:
    """One shape of one operator. `linear` takes mat2 as an (n, k) weight, `add` uses m and n only (k is 1), `mv` has a
    vector for mat2 (n is 1).
    """

    op: str
    dtype: str
    m: int
    n: int
    k: int = 1
    batch: int = 1
    layout: str = "NN"
    c: str = "none"
    out_dtype: str | None = None
    activation: str = "none"
    training: bool = False

    @property
    def shape(self) -> str:
        """`[batch:]MxNxK`, `MxN` for add, `MxK` for mv."""
        if self.op in ("add", "mv"):
            return f"{self.m}x{self.n if self.op == 'add' else self.k}"
        return (f"{self.batch}:" if self.op in BATCHED else "") + f"{self.m}x{self.n}x{self.k}"

    @property
    def layout_name(self) -> str:
        """Layout letters, with the added matrix, the activation and the gradients where there are any."""
        parts = [part for part in (self.c, self.activation) if part != "none"]
        return "+".join([self.layout, *parts, *(["grad"] if self.training else [])])


def torch_dtype(name: str) -> torch.dtype:
    """`torch.<name>`, for example `bfloat16`."""
    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{name} is not a dtype")
    return dtype


def flop_count(problem: Problem) -> int:
    """Real arithmetic operations of one call: 2 m n k per matrix product (8 when complex), 1 per added element.

    The epilogue of addmm, baddbmm and linear (m n operations) is not counted, as is usual. Training has three products.
    """
    is_complex = torch_dtype(problem.dtype).is_complex
    if problem.op == "add":
        return problem.m * problem.n * (2 if is_complex else 1)
    batch = problem.batch if problem.op in BATCHED else 1
    products = 3 if problem.training else 1
    return products * (8 if is_complex else 2) * batch * problem.m * problem.n * problem.k


def stored_bytes(tensor: Tensor) -> int:
    """Bytes of the distinct elements of a view: dimensions of stride 0 count once."""
    sizes = [size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride != 0]
    return functools.reduce(lambda a, b: a * b, sizes, 1) * tensor.element_size()


def output_bytes(problem: Problem) -> int:
    """Bytes of the result."""
    dtype = torch_dtype(problem.out_dtype or problem.dtype)
    batch = problem.batch if problem.op in BATCHED else 1
    return batch * problem.m * problem.n * dtype.itemsize


def _random(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Standard normal values, or integers in -4..4 (0..4 when unsigned) that stay exact in products."""
    if dtype.is_floating_point or dtype.is_complex:
        drawn = torch.complex64 if dtype.is_complex else torch.float32
        return torch.randn(shape, generator=generator, dtype=drawn).to(dtype)
    return torch.randint(0 if dtype == torch.uint8 else -4, 5, shape, generator=generator).to(dtype)


def _operand(
    rows: int, columns: int, batch: int | None, letter: str, draw: Callable[[tuple[int, ...]], Tensor]
) -> Tensor:
    """A (rows, columns) or (batch, rows, columns) view in the layout that the letter stands for."""
    lead = () if batch is None else (batch,)
    if letter == "N":
        return draw((*lead, rows, columns))
    if letter == "T":
        return draw((*lead, columns, rows)).transpose(-1, -2)
    if letter == "S":
        return draw((*lead, rows, 2 * columns))[..., :columns]
    if letter == "H" and batch is not None:
        return draw((rows, batch, columns)).transpose(0, 1)
    if letter == "B" and batch is not None:
        return draw((rows, columns)).expand(batch, rows, columns)
    if letter == "R" and batch is None:
        return draw((1, columns)).expand(rows, columns)
    if letter == "C" and batch is None:
        return draw((rows, 1)).expand(rows, columns)
    raise ValueError(f"layout letter {letter!r} does not apply here")


def make_inputs(problem: Problem, seed: int = 0) -> tuple[Tensor, ...]:
    """Operands in the order of the operator's signature."""
    generator = torch.Generator().manual_seed(seed)
    dtype = torch_dtype(problem.dtype)

    def draw(shape: tuple[int, ...]) -> Tensor:
        return _random(shape, dtype, generator)

    m, n, k = problem.m, problem.n, problem.k
    batch = problem.batch if problem.op in BATCHED else None
    first, second = problem.layout[0], problem.layout[1]
    if problem.op == "add":
        return _operand(m, n, None, first, draw), _operand(m, n, None, second, draw)
    if problem.op == "linear":
        operands = (_operand(m, k, None, first, draw), _operand(n, k, None, second, draw))
        return operands if problem.c == "none" else (*operands, draw((n,)))
    if problem.op == "mv":
        return _operand(m, k, None, first, draw), draw((k,))
    factors = (_operand(m, k, batch, first, draw), _operand(k, n, batch, second, draw))
    if problem.op not in ADDED_FIRST:
        return factors
    added = draw((n,)) if problem.c == "row" else _operand(m, n, batch, "N", draw)
    return (added, *factors)


def _clone_with_strides(tensor: Tensor) -> Tensor:
    """A copy in fresh storage with the same strides, also where they are 0 or overlap."""
    storage = tensor.untyped_storage()
    elements = torch.empty(0, dtype=tensor.dtype).set_(storage, 0, (storage.nbytes() // tensor.element_size(),), (1,))
    return elements.clone().as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())


def rotate(inputs: tuple[Tensor, ...], least_bytes: int, most_sets: int = 512) -> list[tuple[Tensor, ...]]:
    """The inputs and as many copies in memory of their own as it takes to touch `least_bytes`; at least two sets."""
    one = sum(stored_bytes(tensor) for tensor in inputs)
    count = max(2, min(most_sets, -(-least_bytes // max(one, 1))))
    return [inputs, *(tuple(_clone_with_strides(tensor) for tensor in inputs) for _ in range(count - 1))]


def native_call(problem: Problem) -> Callable[..., Any] | None:
    """The native torch function for this problem; None where torch has none on this device."""
    if problem.out_dtype is not None:
        int8_to_int32 = (problem.op, problem.dtype, problem.out_dtype) == ("mm", "int8", "int32")
        return getattr(torch, "_int_mm", None) if int8_to_int32 else None
    owner = torch.nn.functional if problem.op == "linear" else torch
    function: Callable[..., Any] = getattr(owner, problem.op)
    if problem.activation != "none":
        index, plain = ACTIVATIONS.index(problem.activation), function
        function = lambda *operands: apply(index, plain(*operands))  # noqa: E731
    return with_gradients(function) if problem.training else function


def with_gradients(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A step of training: the result, after the gradients of all operands for a gradient equal to it."""

    def step(*operands: Tensor) -> Tensor:
        leaves = [operand.detach().requires_grad_() for operand in operands]
        result = function(*leaves)
        torch.autograd.grad(result, leaves, result.detach())
        return result.detach()

    return step
