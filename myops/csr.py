"""myops.CSR: a sparse matrix for graphs that torch.compile takes whole, which no native sparse tensor is.

A wrapper subclass of torch.Tensor around plain ones: `crow`, `col`, `values`, and the transposed pattern where it was
asked for. It caches nothing; gradients live on `values`, an ordinary tensor, so that optimizers work on it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active

from .ops._gemm import check, check_bias, check_dtype

_PARTS = ("crow", "col", "values")
_TRANSPOSE = ("t_crow", "t_col", "t_perm")


class CSR(torch.Tensor):
    """An m x k matrix in compressed sparse rows: row i is the sum of values[e] at col[e], e in crow[i]:crow[i + 1].

        A = myops.CSR.from_torch(native)  # once, outside the compiled function
        y = A @ x                         # also torch.mm, torch.sparse.mm, torch.addmm, x @ A; in and out of compile

    Args:
        crow: (m + 1,) int32 or int64, from 0 to nnz, never decreasing.
        col: (nnz,) of the same dtype, in [0, k); in any order within a row, repeated entries add up.
        values: (nnz,), any dtype of products, so not bool. Where it requires grad, products are differentiable in it.
        size: (m, k).
        t_crow, t_col, t_perm: the pattern by columns (`with_transpose`), which the gradient of a dense operand reads;
            without it that gradient sorts the pattern each time.
        check_invariants: whether to look at every index now; None: as torch.sparse.check_sparse_tensor_invariants says.

    It has products (`@`, mm, addmm, sparse.mm, mv, F.linear), transposes, `to`, `clone`, `detach`, `copy_`, pickling.
    For anything else there are `values`, `to_torch()` and `to_dense()`. Programs of torch.export and torch.jit take the
    parts, of which the function makes the matrix: export refuses one that a module holds, torch.jit.save crashes on it.

    Raises:
        RuntimeError: parts that do not fit together; indices out of range, then or at the first product.
        NotImplementedError: values of a dtype without products.
    """

    crow: Tensor
    col: Tensor
    values: Tensor  # type: ignore[assignment]
    t_crow: Tensor | None
    t_col: Tensor | None
    t_perm: Tensor | None

    @staticmethod
    def __new__(
        cls,
        crow: Tensor,
        col: Tensor,
        values: Tensor,
        size: tuple[int, int],
        t_crow: Tensor | None = None,
        t_col: Tensor | None = None,
        t_perm: Tensor | None = None,
        *,
        check_invariants: bool | None = None,
    ) -> CSR:
        m, k = size
        if crow.dim() != 1 or col.dim() != 1 or values.dim() != 1:
            raise RuntimeError(
                f"crow, col and values must be vectors, got {crow.dim()}-D, {col.dim()}-D and {values.dim()}-D tensors"
            )
        check_dtype("CSR", values, "values")
        if len({t is None for t in (t_crow, t_col, t_perm)}) > 1:
            raise RuntimeError("t_crow, t_col and t_perm must be given together, or none of them")
        if crow.dtype not in (torch.int32, torch.int64) or col.dtype != crow.dtype:
            raise RuntimeError(
                f"crow and col must both have dtype int32 or int64, but got {crow.dtype} and {col.dtype}"
            )
        check(crow.shape[0] == m + 1, lambda: f"crow must have {m + 1} elements for {m} rows, but got {crow.shape[0]}")
        check(
            col.shape[0] == values.shape[0],
            lambda: f"col and values must have the same length, but got {col.shape[0]} and {values.shape[0]}",
        )
        self = torch.Tensor._make_wrapper_subclass(
            cls, (m, k), dtype=values.dtype, device=values.device, requires_grad=False
        )
        # What asks for its memory (dlpack) is told that there is none.
        torch._C._set_throw_on_mutable_data_ptr(self)
        self.crow, self.col, self.values = crow, col, values
        self.t_crow, self.t_col, self.t_perm = t_crow, t_col, t_perm
        if check_invariants is None:
            check_invariants = torch.sparse.check_sparse_tensor_invariants.is_enabled()
        if check_invariants:
            by_column = torch.ops.myops.csr_transpose(crow, col, k)  # which looks at all of them
            given = (t_crow, t_col, t_perm)
            if any(t is not None and not torch.equal(t, found) for t, found in zip(given, by_column, strict=True)):
                raise RuntimeError("t_crow, t_col and t_perm must be the results of csr_transpose(crow, col, k)")
        return self

    # Conversions.

    @classmethod
    def from_torch(cls, matrix: Tensor, *, transpose: bool = True) -> CSR:
        """A native tensor of any 2-D layout, strided ones included, as CSR; keeps the index dtype and the gradient.

        transpose: also hold the pattern by columns (`with_transpose`).

        Raises: TypeError where it is no tensor; RuntimeError where it is no matrix, or a hybrid one.
        """
        from .sparse import csr_parts

        if not isinstance(matrix, Tensor):
            raise TypeError(f"matrix must be a Tensor, but got {type(matrix).__name__}")
        if isinstance(matrix, CSR):
            return matrix.with_transpose() if transpose else matrix
        if matrix.dim() != 2:
            raise RuntimeError(f"matrix must be a matrix, got {matrix.dim()}-D tensor")
        if matrix.layout == torch.strided:
            matrix = matrix.to_sparse_csr()
        made = cls(*csr_parts(matrix), (matrix.shape[0], matrix.shape[1]))
        return made.with_transpose() if transpose else made

    @classmethod
    def from_scipy(cls, matrix: Any, *, transpose: bool = True) -> CSR:
        """Any scipy.sparse matrix or array; keeps the index dtype of its CSR form and shares its memory."""
        if not hasattr(matrix, "tocsr"):
            raise TypeError(f"matrix must be a scipy.sparse matrix or array, but got {type(matrix).__name__}")
        rows = matrix.tocsr()
        crow, col, values = (torch.from_numpy(part) for part in (rows.indptr, rows.indices, rows.data))
        made = cls(crow, col, values, (rows.shape[0], rows.shape[1]))
        return made.with_transpose() if transpose else made

    def to_torch(self) -> Tensor:
        """The matrix as a native CSR tensor that shares its parts; differentiable."""
        size, device = tuple(self.shape), self.values.device  # as without it, but for a default device
        return torch.sparse_csr_tensor(self.crow, self.col, self.values, size, device=device, check_invariants=False)

    def to_scipy(self) -> Any:
        """The matrix as a scipy.sparse.csr_matrix that shares its parts where it can; on the CPU, without gradient."""
        import scipy.sparse  # type: ignore[import-untyped]

        parts = tuple(part.detach().cpu().numpy() for part in (self.values, self.col, self.crow))
        return scipy.sparse.csr_matrix(parts, shape=tuple(self.shape))

    def to_dense(self, *args: Any, **kwargs: Any) -> Tensor:
        """The matrix as a strided tensor, repeated entries added up; differentiable."""
        from .ops._csr import check_inside, dense_of

        check_inside(self.col, self.shape[1], "col")
        return dense_of(self.crow, self.col, self.values, self.shape[1]).to(*args, **kwargs)

    def with_transpose(self) -> CSR:
        """The same matrix with its pattern by columns beside it, made by one counting sort where it is not there."""
        if self.t_crow is not None:
            return self
        ready = torch.ops.myops.csr_transpose(self.crow, self.col, self.shape[1])
        return CSR(self.crow, self.col, self.values, self._size(), *ready, check_invariants=False)

    def with_values(self, values: Tensor) -> CSR:
        """Other values, (nnz,), on the same pattern; a RuntimeError where they are not as many."""
        t = (self.t_crow, self.t_col, self.t_perm)
        return CSR(self.crow, self.col, values, self._size(), *t, check_invariants=False)

    def _size(self) -> tuple[int, int]:
        return self.shape[0], self.shape[1]

    def nnz(self) -> int:
        """The number of stored entries, explicit zeros and repeats included."""
        return self.col.shape[0]

    def transpose_csr(self) -> CSR:
        """The transposed matrix, k x m; differentiable in `values`."""
        full = self.with_transpose()
        assert full.t_crow is not None
        assert full.t_col is not None
        assert full.t_perm is not None
        values = self.values[full.t_perm.long()]
        return CSR(full.t_crow, full.t_col, values, (self.shape[1], self.shape[0]), check_invariants=False)

    def __repr__(self, **contents: Any) -> str:  # type: ignore[override]
        m, k = self.shape
        known = all(type(n) is int for n in (m, k, self.nnz()))  # and not symbols of a compiler
        share = f", {100 * self.nnz() / (m * k):.3g} %" if known and m * k else ""
        index = str(self.crow.dtype).removeprefix("torch.")
        extras = [name for name, there in (("with transpose", self.t_crow is not None),
                                           ("values require grad", self.values.requires_grad)) if there]  # fmt: skip
        dtype = str(self.dtype).removeprefix("torch.")
        text = f"CSR({m} x {k}, nnz={self.nnz()}{share}, {dtype}, {index} indices, {self.device}"
        return ", ".join([text, *extras]) + ")"

    # What torch asks of a wrapper subclass.

    def _names(self) -> list[str]:
        return [*_PARTS, *(_TRANSPOSE if self.t_crow is not None else ())]

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        if torch.compiler.is_exporting() and type(self.crow) is Tensor:
            raise RuntimeError(
                "torch.export takes the parts of a myops.CSR and not the matrix, whose values the program would lose: "
                "hold A.crow, A.col and A.values as buffers, and multiply by myops.CSR(crow, col, values, size) inside"
            )
        # The compiler asks the matrix, not its parts, whether it requires grad. Inside a graph the parts are fake.
        plain = type(self.values) in (Tensor, torch.nn.Parameter)
        if plain and self.values.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(
                "a myops.CSR whose values require grad cannot enter torch.compile, whose graph would lose their "
                "gradient: give the function A.detach() and the values, and multiply by A.with_values(values) inside"
            )
        return self._names(), None

    @staticmethod
    def __tensor_unflatten__(parts: dict[str, Tensor], context: Any, size: Any, stride: Any) -> CSR:
        crow, col, values = (parts[name] for name in _PARTS)
        t_crow, t_col, t_perm = (parts.get(name) for name in _TRANSPOSE)
        return CSR(crow, col, values, (size[0], size[1]), t_crow, t_col, t_perm, check_invariants=False)

    def _stable_hash_for_caching(self) -> str:
        """What a compiled graph may depend on: all of the parts but what they hold."""
        parts = [getattr(self, name) for name in self._names()]
        views = [(*t.shape, *t.stride(), t.storage_offset(), t.is_conj(), t.is_neg(), t.requires_grad) for t in parts]
        return repr(
            (type(self).__qualname__, self._size(), self.requires_grad, [(t.dtype, t.device) for t in parts], views)
        )

    @classmethod
    def __torch_function__(cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _PLAIN:  # torch's own way goes through the result too: 3 us instead of 1
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        product = _PRODUCTS.get(func)
        if product is not None:
            return product(*args, **(kwargs or {}))
        if func in _MAPPED and _are_functorch_transforms_active():  # which would wrap the matrix and not its parts
            return args[0]._map(func, args[1:], kwargs or {})
        if func in _WANT_GRAD and (*args[1:], *(kwargs or {}).values(), True)[0]:
            raise RuntimeError(
                "a myops.CSR requires grad where its values do: A.with_values(values), with values that require grad"
            )
        with torch._C.DisableTorchFunctionSubclass():  # __torch_dispatch__ makes a CSR of what is one
            result = func(*args, **(kwargs or {}))
        if func in _CONVERSIONS and isinstance(result, CSR) and result is not args[0]:
            values = args[0].values  # once more, above the parts, where autograd records it
            if values.requires_grad:
                # A Parameter that module.to() has converted in place stays the one that the matrix has.
                copies = func in _CLONES or (result.dtype, result.device) == (args[0].dtype, args[0].device)
                return result.with_values(values.to(result.values, copy=copies))
        return result

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        if packet in _ON_PARTS:
            return args[0]._map(func, args[1:], kwargs)
        if packet in _ATEN:  # below torch.func's transforms, and from graphs that took aten's operator
            if any(isinstance(a, CSR) and a.values.requires_grad for a in args) and torch.is_grad_enabled():
                raise RuntimeError(
                    f"{func} of a myops.CSR would lose the gradient of its values here: call a product of A itself (@, "
                    "torch.mm, torch.addmm), and give a transformed function A.detach() and the values, to multiply by "
                    "A.with_values(values) inside"
                )
            return _ATEN[packet](*args, **kwargs)
        if packet is torch.ops.aten.copy_ and isinstance(args[0], CSR):
            return args[0]._copy(*args[1:])
        raise NotImplementedError(
            f"myops.CSR has no {func}; it has products (@, torch.mm, torch.sparse.mm, torch.addmm), to(), clone() and "
            "detach(). Compute on .values, or on .to_torch() or .to_dense()"
        )

    def _map(self, func: Any, args: Any, kwargs: dict[str, Any]) -> CSR:
        """`func` on every part; a dtype is for the values alone."""
        values = func(self.values, *args, **kwargs)
        if func in _CASTS:
            func, args, kwargs = torch.Tensor.to, (values.device,), {}
        for_indices = {name: value for name, value in kwargs.items() if name != "dtype"}

        def index(name: str) -> Any:
            part = getattr(self, name)
            return None if part is None else func(part, *args, **for_indices)

        crow, col, *t = (index(name) for name in ("crow", "col", *_TRANSPOSE))
        return CSR(crow, col, values, self._size(), *t, check_invariants=False)

    def _copy(self, source: Tensor, non_blocking: bool = False) -> CSR:
        """`copy_`: above autograd, which counts versions and refuses a leaf; below it, in a graph."""
        if not isinstance(source, CSR) or source.shape != self.shape or source.nnz() != self.nnz():
            given = repr(source) if isinstance(source, CSR) else f"a {type(source).__name__} of {list(source.shape)}"
            raise RuntimeError(f"cannot copy {given} into {self!r}: it must be a CSR of the same size and nnz")
        for name in (*_PARTS, *_TRANSPOSE):
            mine, other = getattr(self, name), getattr(source, name)
            if mine is not None:
                if other is None:
                    other = getattr(source.with_transpose(), name)
                mine.copy_(other, non_blocking)
        return self

    def share_memory_(self) -> CSR:
        for name in self._names():
            getattr(self, name).share_memory_()
        return self

    def is_shared(self) -> bool:
        return all(getattr(self, name).is_shared() for name in self._names())

    def __reduce_ex__(self, protocol: Any) -> Any:
        parts = [getattr(self, name) for name in _PARTS]
        return CSR, (*parts, self._size(), *(getattr(self, name) for name in _TRANSPOSE))

    def __deepcopy__(self, memo: dict[int, Any]) -> CSR:
        if self.values.is_leaf:  # perhaps a Parameter that a module holds too
            values = copy.deepcopy(self.values, memo)
        else:
            values = self.values.detach().clone().requires_grad_(self.values.requires_grad)
        crow, col = copy.deepcopy((self.crow, self.col), memo)
        t = copy.deepcopy((self.t_crow, self.t_col, self.t_perm), memo)
        return CSR(crow, col, values, self._size(), *t, check_invariants=False)

    __hash__ = torch.Tensor.__hash__


_PLAIN = {
    *(getattr(torch.Tensor, name).__get__ for name in (
        "shape", "ndim", "dtype", "device", "layout", "requires_grad", "is_leaf", "is_cpu", "is_cuda", "is_sparse",
    )),
    torch.Tensor.size, torch.Tensor.dim, torch.Tensor.numel,
}  # fmt: skip
_WANT_GRAD = {torch.Tensor.requires_grad_, torch.Tensor.requires_grad.__set__}  # type: ignore[attr-defined]
_CLONES = {torch.clone, torch.Tensor.clone}
_CASTS = {getattr(torch.Tensor, name) for name in (
    "to", "type", "type_as", "double", "float", "half", "bfloat16", "cdouble", "cfloat", "cpu", "cuda",
)}  # fmt: skip
_CONVERSIONS = {*_CLONES, *_CASTS}
_MAPPED = {torch.detach, torch.Tensor.detach, *_CONVERSIONS}
_ON_PARTS = {
    torch.ops.aten.detach, torch.ops.aten.clone, torch.ops.aten.alias, torch.ops.aten._to_copy,
    torch.ops.aten.lift_fresh, torch.ops.aten.empty_like,
}  # fmt: skip
torch.serialization.add_safe_globals([CSR])  # plain tensors and two numbers: torch.load(weights_only=True) may


# Torch's functions of a CSR, with torch's names of their arguments.


def _refuse(out: Any) -> None:
    if out is not None:
        raise NotImplementedError("products of a myops.CSR take no out=")


def _copy_(input: Any, src: Any, non_blocking: bool = False) -> Tensor:
    if not isinstance(input, CSR):
        raise NotImplementedError("myops.CSR has no aten.copy_ to a strided tensor; .to_dense() makes one")
    return input._copy(src, non_blocking)


def _mm(input: Any, mat2: Any, *, out: Any = None) -> Tensor:
    from . import sparse

    _refuse(out)
    return sparse.mm(input, mat2)


def _sparse_mm(sparse: Any, dense: Any, reduce: str = "sum") -> Tensor:
    from .sparse import mm

    return mm(sparse, dense, reduce=reduce)


def _is_vector(t: Any) -> bool:
    return not isinstance(t, CSR) and isinstance(t, Tensor) and t.dim() == 1


def _matmul(input: Any, other: Any, *, out: Any = None) -> Tensor:
    if _is_vector(other):
        return _mm(input, other.unsqueeze(1), out=out).squeeze(1)
    if _is_vector(input):
        return _mm(input.unsqueeze(0), other, out=out).squeeze(0)
    return _mm(input, other, out=out)


def _rmatmul(other: Any, input: Any) -> Tensor:
    return _matmul(input, other)


def _mv(input: Any, vec: Any, *, out: Any = None) -> Tensor:
    return _matmul(input, vec, out=out)


def _linear(input: Any, weight: Any, bias: Any = None) -> Tensor:
    if not isinstance(weight, CSR) or isinstance(input, CSR) or isinstance(bias, CSR):
        raise NotImplementedError("a myops.CSR can be the weight of linear, not its input or bias")
    check(input.dim() > 0, lambda: "input must have at least one dimension, got a 0-D tensor")
    check_bias(bias, weight.shape[0])
    columns = input.unsqueeze(1) if input.dim() == 1 else input.flatten(0, -2).mT
    product = _mm(weight, columns) if bias is None else _addmm(bias.view(-1, 1), weight, columns)
    return product.mT.contiguous().view(*input.shape[:-1], weight.shape[0])


def _detach_(input: CSR) -> CSR:
    """The matrix alone: values that others hold, a Parameter perhaps, stay what they are."""
    input.values = input.values.detach()
    return input


def _conj(input: CSR) -> CSR:
    return input.with_values(input.values.conj_physical()) if input.dtype.is_complex else input


def _adjoint(input: CSR) -> CSR:
    return _conj(input.transpose_csr())


def _addmm(input: Any, mat1: Any, mat2: Any, *, beta: Any = 1, alpha: Any = 1, out: Any = None) -> Tensor:
    from . import sparse

    _refuse(out)
    return sparse.addmm(input, mat1, mat2, beta=beta, alpha=alpha)


def _transpose(input: CSR) -> CSR:
    return input.transpose_csr()


def _swap(input: CSR, dim0: int, dim1: int) -> CSR:
    """`input.transpose(dim0, dim1)`."""
    if {dim0 % 2, dim1 % 2} != {0, 1} or not -2 <= min(dim0, dim1) <= max(dim0, dim1) < 2:
        raise NotImplementedError(f"a myops.CSR can be transposed over dimensions 0 and 1, not {dim0} and {dim1}")
    return input.transpose_csr()


def _swapaxes(input: CSR, axis0: int, axis1: int) -> CSR:
    return _swap(input, axis0, axis1)


def _permute(input: CSR, *order: Any, dims: Any = None) -> CSR:
    """`input.permute(1, 0)`, of numbers, of one sequence, or by name."""
    if dims is None:
        dims = order if isinstance(order[0], int) else order[0]
    if tuple(dims) not in ((1, 0), (-1, 0), (1, -2), (-1, -2)):
        raise NotImplementedError(f"a myops.CSR can be permuted to dimensions 1, 0, not {tuple(dims)}")
    return input.transpose_csr()


_PRODUCTS: dict[Any, Callable[..., Any]] = {
    torch.mm: _mm, torch.Tensor.mm: _mm, torch.sparse.mm: _sparse_mm,
    torch.matmul: _matmul, torch.Tensor.matmul: _matmul, torch.Tensor.__matmul__: _matmul,
    torch.Tensor.__rmatmul__: _rmatmul, torch.mv: _mv, torch.Tensor.mv: _mv,
    torch.addmm: _addmm, torch.Tensor.addmm: _addmm, torch.sparse.addmm: _addmm,
    torch.nn.functional.linear: _linear, torch.linalg.matmul: _matmul,
    torch.Tensor.copy_: _copy_, torch.Tensor.detach_: _detach_, torch.detach_: _detach_,
    torch.t: _transpose, torch.Tensor.t: _transpose, torch.transpose: _swap, torch.Tensor.transpose: _swap,
    torch.swapaxes: _swapaxes, torch.Tensor.swapaxes: _swapaxes, torch.swapdims: _swap, torch.Tensor.swapdims: _swap,
    torch.permute: _permute, torch.Tensor.permute: _permute, torch.adjoint: _adjoint, torch.Tensor.adjoint: _adjoint,
    torch.conj: _conj, torch.Tensor.conj: _conj,
    torch.Tensor.T.__get__: _transpose, torch.Tensor.mT.__get__: _transpose,  # type: ignore[attr-defined]
    torch.Tensor.H.__get__: _adjoint, torch.Tensor.mH.__get__: _adjoint,  # type: ignore[attr-defined]
}  # fmt: skip
_ATEN: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.mm: _mm, torch.ops.aten.addmm: _addmm, torch.ops.aten.t: _transpose,
    torch.ops.aten.numpy_T: _transpose, torch.ops.aten.mT: _transpose, torch.ops.aten.transpose: _swap,
    torch.ops.aten.permute: _permute,
}  # fmt: skip
