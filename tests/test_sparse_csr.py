"""myops.CSR: products in and out of torch.compile, module state, devices, pickling, conversions, and a GCN on Cora."""

from __future__ import annotations

import copy
import io
import pickle
import re
from collections.abc import Iterator
from typing import Any

import numpy
import pytest
import torch
from sparse_data import LAYOUTS, data_folder, in_layout, pattern, random_dense
from torch import Tensor, nn

import myops

pytestmark = [pytest.mark.filterwarnings("ignore:Sparse .*:UserWarning"), pytest.mark.usefixtures("on_device")]


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def example(dtype: torch.dtype = torch.float64, transpose: bool = True) -> tuple[myops.CSR, Tensor]:
    dense = random_dense(8, 12, dtype)
    return myops.CSR.from_torch(dense.to_sparse_csr(), transpose=transpose), dense


PRODUCTS = {
    "A @ x": lambda a, x, y: a @ x,
    "y @ A": lambda a, x, y: y @ a,
    "torch.mm": lambda a, x, y: torch.mm(a, x),
    "a.mm": lambda a, x, y: a.mm(x),
    "torch.matmul": lambda a, x, y: torch.matmul(a, x),
    "torch.sparse.mm": lambda a, x, y: torch.sparse.mm(a, x),
    "sparse.mm": lambda a, x, y: myops.sparse.mm(a, x),
    "torch.addmm": lambda a, x, y: torch.addmm(y[:, :1], a, x, beta=2, alpha=3),
    "sparse.addmm": lambda a, x, y: torch.sparse.addmm(y[:, :1], a, x),
    "A @ vector": lambda a, x, y: a @ x[:, 0],
    "vector @ A": lambda a, x, y: y[0, :8] @ a,
    "A.t() @ y": lambda a, x, y: a.t() @ y.mT,
    "A.T": lambda a, x, y: a.T @ y.mT,
    "A.transpose": lambda a, x, y: a.transpose(0, 1) @ y.mT,
    "A.mT": lambda a, x, y: a.mT @ y.mT,
    "torch.mm by name": lambda a, x, y: torch.mm(input=a, mat2=x),
    "a.mm by name": lambda a, x, y: a.mm(mat2=x),
    "torch.matmul by name": lambda a, x, y: torch.matmul(a, other=x),
    "a.mv by name": lambda a, x, y: a.mv(vec=x[:, 0]),
    "torch.addmm by name": lambda a, x, y: torch.addmm(y[:, :1], mat1=a, mat2=x, beta=2),
    "y.addmm": lambda a, x, y: y[:, :5].addmm(a, x, alpha=2),
}
DENSE = {name: call for name, call in PRODUCTS.items() if "sparse" not in name} | {
    "torch.sparse.mm": PRODUCTS["torch.mm"],
    "sparse.mm": PRODUCTS["torch.mm"],
    "sparse.addmm": lambda a, x, y: torch.addmm(y[:, :1], a, x),
}


def operands(call: str) -> tuple[Tensor, Tensor]:
    return torch.randn(12, 5, dtype=torch.float64), torch.randn(8, 8, dtype=torch.float64)


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("call", list(PRODUCTS))
def test_products(call: str, transpose: bool) -> None:
    a, dense = example(transpose=transpose)
    x, y = operands(call)
    expected = DENSE[call](dense, x, y)
    torch.testing.assert_close(PRODUCTS[call](a, x, y), expected)


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
@pytest.mark.parametrize("call", ["A @ x", "y @ A", "torch.mm", "torch.sparse.mm", "torch.addmm", "A @ vector"])
def test_products_compile_whole(call: str, backend: str) -> None:
    a, dense = example()
    x, y = (t.requires_grad_() for t in operands(call))
    f = torch.compile(lambda a, x, y: PRODUCTS[call](a, x.sin(), y.sin()) * 2, fullgraph=True, backend=backend)
    got, expected = f(a, x, y), DENSE[call](dense, x.sin(), y.sin()) * 2
    torch.testing.assert_close(got, expected)
    leaves = [t for t, used in ((x, "x" in call or "m" in call or "vector" in call), (y, "y" in call)) if used]
    if call == "A @ vector":
        leaves = [x]
    for ours, theirs in zip(torch.autograd.grad(got.sum(), leaves, allow_unused=True),
                            torch.autograd.grad(expected.sum(), leaves, allow_unused=True), strict=True):  # fmt: skip
        torch.testing.assert_close(ours, theirs)


def test_graphs_are_cached_by_everything_but_contents() -> None:
    crow, col = pattern(6, 5)
    values = torch.randn(len(col))
    a = myops.CSR(crow, col, values, (6, 5))
    key = a._stable_hash_for_caching
    assert key() == a.with_values(torch.randn(len(col)))._stable_hash_for_caching()
    others = [
        a.double(),
        a.with_transpose(),
        a.with_values(values.clone().requires_grad_()),
        a.with_values(values.repeat_interleave(2)[::2]),
        a.with_values(values.cfloat()),
        a.with_values(values.cfloat().conj()),
        myops.CSR(crow, col, values, (6, 7)),
        myops.CSR(crow.int(), col.int(), values, (6, 5)),
    ]
    assert len({key(), *(other._stable_hash_for_caching() for other in others)}) == 1 + len(others)


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_training_the_values_compiled(backend: str) -> None:
    """Values are an ordinary parameter: built into a CSR inside the graph, trained by Adam, as the dense twin is."""

    class Pruned(nn.Module):
        def __init__(self, a: myops.CSR) -> None:
            super().__init__()
            for name in ("crow", "col", "t_crow", "t_col", "t_perm"):
                self.register_buffer(name, getattr(a, name))
            self.values = nn.Parameter(a.values.clone())

        def forward(self, x: Tensor) -> Tensor:
            a = myops.CSR(self.crow, self.col, self.values, (8, 12), self.t_crow, self.t_col, self.t_perm)
            return (a @ x.mT).mT

    a, dense = example()
    sparse, mask = Pruned(a), dense != 0
    weight = nn.Parameter(dense.clone())
    x = torch.randn(5, 12, dtype=torch.float64)
    step = torch.compile(lambda x: sparse(x).square().mean(), fullgraph=True, backend=backend)
    ours, theirs = torch.optim.Adam(sparse.parameters(), lr=0.1), torch.optim.Adam([weight], lr=0.1)
    for _ in range(3):
        ours.zero_grad()
        theirs.zero_grad()
        step(x).backward()
        (x @ (weight * mask).mT).square().mean().backward()
        ours.step()
        theirs.step()
    trained = myops.CSR(sparse.crow, sparse.col, sparse.values, (8, 12))
    torch.testing.assert_close(trained.to_dense(), (weight * mask).detach(), check_device=False)


def test_gradients_reach_values_and_dense() -> None:
    a, dense = example()
    values = a.values.requires_grad_()
    x = torch.randn(12, 3, dtype=torch.float64, requires_grad=True)
    (a.with_values(values) @ x).square().sum().backward()
    outer = 2 * dense @ x.detach()
    torch.testing.assert_close(x.grad, dense.mT @ outer)
    rows = torch.repeat_interleave(torch.arange(8), a.crow.diff())
    torch.testing.assert_close(values.grad, (outer @ x.detach().mT)[rows, a.col.long()])


def test_sparse_times_sparse_is_csr() -> None:
    a, dense = example()
    got = a @ a.t()
    assert isinstance(got, myops.CSR)
    torch.testing.assert_close(got.to_dense(), dense @ dense.mT)
    values = a.values.requires_grad_()
    (a.with_values(values) @ a.t()).values.sum().backward()
    assert values.grad is not None


class Holder(nn.Module):
    def __init__(self, a: myops.CSR) -> None:
        super().__init__()
        self.register_buffer("a", a)

    def forward(self, x: Tensor) -> Tensor:
        return self.a @ x


def test_module_state() -> None:
    a, dense = example()
    module = Holder(a)
    assert isinstance(module.state_dict()["a"], myops.CSR)
    other = Holder(a.with_values(torch.zeros_like(a.values)))
    other.load_state_dict(module.state_dict())
    assert torch.equal(other.a.to_dense(), dense)
    assert torch.equal(copy.deepcopy(module).a.to_dense(), dense)
    half = copy.deepcopy(module).to(torch.bfloat16)
    assert half.a.dtype == half.a.values.dtype == torch.bfloat16
    assert half.a.crow.dtype == a.crow.dtype
    x = torch.randn(12, 3)
    expected = dense.float() @ x
    torch.testing.assert_close(copy.deepcopy(module).float()(x), expected)
    torch.testing.assert_close(
        torch.compile(copy.deepcopy(module).float(), fullgraph=True, backend="aot_eager")(x), expected
    )
    meta = copy.deepcopy(module).to("meta")
    assert meta.a.values.device.type == meta.a.crow.device.type == meta.a.t_perm.device.type == "meta"


def test_saving() -> None:
    a, dense = example()
    again = pickle.loads(pickle.dumps(a))
    assert torch.equal(again.to_dense(), dense)
    assert again.t_perm is not None
    file = io.BytesIO()
    torch.save(Holder(a).state_dict(), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)["a"]
    assert isinstance(loaded, myops.CSR)
    assert torch.equal(loaded.to_dense(), dense)


@pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("layout", [*LAYOUTS, "strided"])
def test_conversions_from_torch(layout: str, index: torch.dtype) -> None:
    dense = random_dense(8, 12, torch.float64)
    native = in_layout(dense, layout, index)
    a = myops.CSR.from_torch(native)
    assert torch.equal(a.to_dense(), dense if layout in ("bsr", "strided") else native.to_dense())
    assert torch.equal(a.to_torch().to_dense(), a.to_dense())
    if layout in ("csr", "csc", "bsr", "bsc"):
        assert a.crow.dtype == a.t_perm.dtype == index


def test_scipy() -> None:
    sp = pytest.importorskip("scipy.sparse")
    matrix = sp.random(6, 9, 0.3, format="coo", random_state=1)
    a = myops.CSR.from_scipy(matrix)
    assert a.crow.dtype == torch.int32
    numpy.testing.assert_array_equal(a.to_scipy().toarray(), matrix.toarray())
    numpy.testing.assert_array_equal(a.to_dense().numpy(), matrix.toarray())


def test_repr(device: str) -> None:
    a, _ = example(transpose=False)
    assert re.fullmatch(rf"CSR\(8 x 12, nnz=\d+, [\d.]+ %, float64, int64 indices, {device}(:0)?\)", repr(a))
    assert "with transpose" in repr(a.with_transpose())


def test_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "1")  # so that products wait for what their kernels found
    crow, col, v = torch.tensor([0, 1, 3]), torch.tensor([1, 0, 2]), torch.ones(3)
    for args, words in (
        ((crow, col, v, (3, 3)), "crow must have 4 elements for 3 rows, but got 3"),
        ((crow, col, v[:2], (2, 3)), "col and values must have the same length, but got 3 and 2"),
        ((crow, col.int(), v, (2, 3)), "crow and col must both have dtype int32 or int64"),
        ((crow[None], col, v, (2, 3)), "must be vectors, got 2-D, 1-D and 1-D tensors"),
    ):
        with pytest.raises(RuntimeError, match=re.escape(words)):
            myops.CSR(*args)
    bad = torch.tensor([1, 0, 3])
    with pytest.raises(RuntimeError, match=re.escape("outside [0, 3)")):
        myops.CSR(crow, bad, v, (2, 3), check_invariants=True)
    with torch.sparse.check_sparse_tensor_invariants(), pytest.raises(RuntimeError, match="outside"):
        myops.CSR(crow, bad, v, (2, 3))
    with pytest.raises(RuntimeError, match="outside"):
        myops.CSR(crow, bad, v, (2, 3)) @ torch.ones(3, 2)
    with pytest.raises(NotImplementedError, match="myops.CSR has no aten.sin.default"):
        torch.sin(myops.CSR(crow, col, v, (2, 3)))


# A graph convolutional network on Cora.


def cora() -> tuple[Tensor, Tensor, myops.CSR, dict[str, Tensor]]:
    """Features, classes, the normalised adjacency with self loops, and the split."""
    sp = pytest.importorskip("scipy.sparse")
    path = data_folder() / "cora.npz"
    if not path.is_file():
        pytest.skip(f"{path.name} is not in {path.parent}")
    z = numpy.load(path)
    x = sp.csr_matrix((z["x_data"], z["x_indices"], z["x_indptr"]), shape=tuple(z["x_shape"])).toarray()
    x = x / x.sum(1, keepdims=True).clip(1)
    n = x.shape[0]
    graph = sp.coo_matrix((numpy.ones(z["edge_index"].shape[1]), z["edge_index"]), shape=(n, n)) + sp.eye(n)
    scale = sp.diags(numpy.asarray(graph.sum(1)).ravel() ** -0.5)
    adjacency = (scale @ graph @ scale).tocsr().astype("float32")
    split = {name: torch.from_numpy(z[f"{name}_idx"]).long() for name in ("train", "test")}
    return torch.from_numpy(x).float(), torch.from_numpy(z["y"]), myops.CSR.from_scipy(adjacency), split


@pytest.mark.parametrize("compiled", [False, True])
def test_gcn_on_cora(compiled: bool, device: str) -> None:
    x, y, adjacency, split = cora()
    x, y, adjacency = x.to(device), y.to(device), adjacency.to(device)
    torch.manual_seed(1)
    first, second = nn.Linear(x.shape[1], 16, bias=False), nn.Linear(16, 7, bias=False)
    drop = nn.functional.dropout

    def forward(a: Any, x: Tensor, training: bool) -> Tensor:
        hidden = (a @ first(drop(x, 0.5, training))).relu()
        return a @ second(drop(hidden, 0.5, training))

    run = torch.compile(forward, fullgraph=True, backend="aot_eager") if compiled else forward
    parameters = [*first.parameters(), *second.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.01, weight_decay=5e-4)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(run(adjacency, x, True)[split["train"]], y[split["train"]]).backward()
        optimizer.step()
    with torch.no_grad():
        found = run(adjacency, x, False).argmax(1)
    accuracy = (found == y)[split["test"]].float().mean().item()
    assert 0.78 <= accuracy <= 0.83, accuracy


def test_conversions_and_copies_keep_the_gradient(device: str) -> None:
    """`values` of a matrix that was converted, cloned or copied with its module lead back to the Parameter."""
    crow, col = torch.tensor([0, 1, 2], device=device), torch.tensor([0, 1], device=device)
    values = nn.Parameter(torch.ones(2, device=device))
    matrix = myops.CSR(crow, col, values, (2, 2)).with_transpose()
    for made in (matrix.double(), matrix.to(torch.float64), matrix.to(dtype=torch.float64), matrix.clone()):
        values.grad = None
        (made @ torch.ones(2, 3, dtype=made.dtype, device=device)).sum().backward()
        assert torch.equal(values.grad, torch.full((2,), 3.0, device=device))
        assert made.crow.dtype == torch.int64
    assert not matrix.detach().values.requires_grad
    with torch.no_grad():
        assert not matrix.double().values.requires_grad

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, device=device))
            self.matrix = myops.CSR(crow, col, self.weight, (2, 2))

    copied = copy.deepcopy(Layer())
    assert copied.matrix.values is copied.weight
    assert copy.deepcopy(matrix.double()).values.is_leaf  # whose values are no leaf


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_values_that_require_grad_stay_outside_of_graphs(backend: str) -> None:
    """AOTAutograd would lose their gradient without a word."""
    values, x = nn.Parameter(torch.ones(2)), torch.ones(2, 3)
    matrix = myops.CSR(torch.tensor([0, 1, 2]), torch.tensor([0, 1]), values, (2, 2))
    outside = torch.compile(lambda x: matrix @ x, backend=backend)
    with pytest.raises(Exception, match="whose values require grad cannot enter torch.compile"):
        outside(x)
    with torch.no_grad():
        torch.testing.assert_close(outside(x), x)
    pattern_only = matrix.detach()
    inside = torch.compile(lambda v, x: pattern_only.with_values(v) @ x, fullgraph=True, backend=backend)
    inside(values, x).sum().backward()
    assert torch.equal(values.grad, torch.full((2,), 3.0))


def test_a_flag_that_would_train_nothing_is_refused() -> None:
    a, _ = example()
    for call in (
        lambda: a.requires_grad_(),
        lambda: setattr(a, "requires_grad", True),
        lambda: nn.Parameter(a),
        lambda: a.requires_grad_(requires_grad=True),
    ):
        with pytest.raises(RuntimeError, match="requires grad where its values do"):
            call()
    assert not a.requires_grad_(False).requires_grad
    assert not nn.Parameter(a, requires_grad=False).requires_grad


def test_shared_memory_and_empty_copies() -> None:
    a, dense = example()
    if a.device.type == "cpu":
        assert not a.is_shared()
        assert a.share_memory_() is a
        assert a.is_shared()
    module = nn.Module()
    module.register_buffer("a", a)
    empty = module.to("meta").to_empty(device=dense.device).a
    assert isinstance(empty, myops.CSR)
    assert empty.shape == a.shape
    with pytest.raises(NotImplementedError, match=r"myops.CSR has no aten.copy_"):
        torch.empty(dense.shape).copy_(example()[0])


def test_a_copy_needs_the_same_size() -> None:
    a, _ = example()
    other = myops.CSR.from_torch(torch.eye(3, dtype=torch.float64))
    with pytest.raises(RuntimeError, match="cannot copy"):
        a.copy_(other)


@pytest.mark.usefixtures("on_cpu_only")  # where a wrong index stops the grid
@pytest.mark.parametrize("col", [3, -1])
def test_to_dense_checks_columns(col: int) -> None:
    a = myops.CSR(torch.tensor([0, 1, 2, 2]), torch.tensor([col, 0]), torch.ones(2), (3, 3))
    with pytest.raises(RuntimeError, match="col holds an index outside of"):
        a.to_dense()


def test_to_dense_compiles_and_vmaps() -> None:
    a, dense = example()
    compiled = torch.compile(lambda a: a.to_dense() * 2, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(a), 2 * dense)
    values = torch.stack([a.values, -a.values])
    assert torch.equal(torch.vmap(lambda v: a.with_values(v).to_dense())(values), torch.stack([dense, -dense]))


class Weighted(nn.Module):
    """A matrix whose values are a parameter beside it."""

    def __init__(self, matrix: myops.CSR) -> None:
        super().__init__()
        self.values = nn.Parameter(matrix.values.clone())
        self.register_buffer("matrix", matrix.with_values(self.values))

    def forward(self, x: Tensor) -> Tensor:
        return self.matrix @ x


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("convert", ["double", "float", "bfloat16"])
def test_a_converted_module_trains_the_values_of_its_matrix(convert: str, recorded: bool) -> None:
    with torch.set_grad_enabled(recorded):
        module = getattr(Weighted(example(torch.float32)[0]), convert)()
    assert module.matrix.values is module.values
    x = torch.randn(12, 3).to(module.values.dtype)
    before = module(x).detach()
    module(x).pow(2).sum().backward()
    torch.optim.SGD(module.parameters(), 0.1).step()
    assert not torch.equal(module(x), before)


def test_every_conversion_keeps_the_gradient() -> None:
    a, _ = example(torch.float32)
    a = a.with_values(a.values.clone().requires_grad_())
    double = torch.ones(1, dtype=torch.float64)
    for made in (
        a.double(),
        a.type_as(double),
        a.cdouble(),
        a.cfloat(),
        a.clone(),
        a.to(double),
        a.to("cpu", torch.half),
    ):
        assert made.values.requires_grad
        assert made.values is not a.values
        assert made.crow.dtype == made.col.dtype == a.crow.dtype
        assert torch.autograd.grad(made.values.real.sum(), a.values)[0].equal(torch.ones_like(a.values))
    for copied in (a.to(torch.float32, copy=True), a.to(torch.float32, False, True), a.clone()):
        assert copied.values.data_ptr() != a.values.data_ptr()
    assert not a.detach().values.requires_grad


def test_transforms_of_torch_func() -> None:
    a, dense = example()
    x = torch.randn(12, 5, dtype=torch.float64)
    ones = torch.ones(8, 5, dtype=torch.float64)
    grad = torch.func.grad
    for f, args in (
        (lambda x: (a.detach() @ x).sum(), (x,)),
        (lambda x: (a.clone().to(torch.float64) @ x).sum(), (x,)),
        (lambda x: (a.float().double() @ x).sum(), (x,)),
        (lambda x, a: (a @ x).sum(), (x, a)),
        (lambda x, a: torch.addmm(x[:8], a, x).sum() - x[:8].sum(), (x, a)),
        (lambda x, a: (x.T @ a.T).sum(), (x, a)),
    ):
        torch.testing.assert_close(grad(f)(*args), dense.mT @ ones, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(torch.func.jvp(lambda x: a.clone() @ x, (x,), (x,))[1], dense @ x)
    module = Weighted(a).requires_grad_(False)
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    got = grad(lambda x: torch.func.functional_call(module, state, (x,)).sum())(x)
    torch.testing.assert_close(got, dense.mT @ ones)
    trained = a.with_values(a.values.clone().requires_grad_())
    with pytest.raises(RuntimeError, match="would lose the gradient of its values here"):
        grad(lambda x, a: (a @ x).sum())(x, trained)


def test_more_errors_of_products() -> None:
    a, _ = example()
    x = torch.randn(12, 5, dtype=torch.float64)
    for call in (
        lambda: torch.mm(a, x, out=torch.empty(8, 5)),
        lambda: torch.mv(a, x[:, 0], out=torch.empty(8)),
        lambda: torch.addmm(x[:8], a, x, out=torch.empty(8, 5)),
    ):
        with pytest.raises(NotImplementedError, match="take no out="):
            call()
    with pytest.raises(NotImplementedError, match="over dimensions 0 and 1, not 1 and 1"):
        a.transpose(1, 1)
    torch.testing.assert_close(torch.sparse.mm(a, x, "mean"), myops.sparse.mm(a, x, reduce="mean"))


def test_one_graph_for_many_sizes() -> None:
    compiled = torch.compile(lambda a, x: a @ x, fullgraph=True, backend="aot_eager", dynamic=True)
    for m in (6, 7, 9):
        dense = random_dense(m, 12, torch.float64)
        x = torch.randn(12, 5, dtype=torch.float64)
        torch.testing.assert_close(compiled(myops.CSR.from_torch(dense), x), dense @ x)


def test_traces() -> None:
    a, dense = example()
    x = torch.randn(12, 5, dtype=torch.float64)
    traced = torch.jit.trace(lambda v, x: a.with_values(v) @ x, (a.values, x))
    torch.testing.assert_close(traced(2 * a.values, x), 2 * dense @ x)


def test_functions_made_of_products_return_plain_tensors() -> None:
    a, dense = example()
    x = torch.randn(3, a.shape[1], dtype=dense.dtype, device=dense.device)
    for got, expected in (
        (nn.functional.linear(x, a), nn.functional.linear(x, dense)),
        (torch.linalg.matmul(a, x.mT), dense @ x.mT),
        (torch.chain_matmul(a, x.mT, x), dense @ x.mT @ x),
    ):
        assert type(got) is torch.Tensor
        torch.testing.assert_close(got + 1, expected + 1)


def test_copies_count_as_writes() -> None:
    a, dense = example()
    x = torch.ones(a.shape[1], 1, dtype=dense.dtype, device=dense.device, requires_grad=True)
    y = a @ x
    a.copy_(a.with_values(a.values.detach() * 2))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    torch.testing.assert_close(a.to_dense(), dense * 2)
    leaf = a.with_values(a.values.detach().clone().requires_grad_())
    with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        leaf.copy_(a)
    with torch.no_grad():
        leaf.copy_(a)
    assert torch.equal(leaf.values, a.values)


def test_transposed_patterns_are_whole_and_right() -> None:
    a, _ = example()
    full = a.with_transpose()
    parts = (full.crow, full.col, full.values, tuple(full.shape))
    with pytest.raises(RuntimeError, match="must be given together"):
        myops.CSR(*parts, full.t_crow)
    with pytest.raises(RuntimeError, match="must be the results of csr_transpose"):
        myops.CSR(*parts, full.t_crow, full.t_col, full.t_perm.flip(0), check_invariants=True)
    myops.CSR(*parts, full.t_crow, full.t_col, full.t_perm, check_invariants=True)
    with pytest.raises(RuntimeError, match="matrix must be a matrix, got 1-D"):
        myops.CSR.from_torch(torch.ones(3))
    with pytest.raises(TypeError, match="must be a scipy.sparse matrix or array"):
        myops.CSR.from_scipy(torch.ones(3, 3))


def test_trainable_values_of_every_form_of_a_product() -> None:
    matrix = torch.randn(5, 4).relu()
    x, bias = torch.randn(2, 3, 4), torch.randn(5)
    A = myops.CSR.from_torch(matrix)
    forms = {
        "linear": lambda A: torch.nn.functional.linear(x, A, bias),
        "linear of a vector": lambda A: torch.nn.functional.linear(x[0, 0], A),
        "linalg.matmul": lambda A: torch.linalg.matmul(A, x[0].mT),
        "adjoint": lambda A: torch.adjoint(A) @ bias,
        "mH": lambda A: A.mH @ bias,
        "H": lambda A: A.H @ bias,
        "permute": lambda A: A.permute(1, 0) @ bias,
        "torch.permute": lambda A: torch.permute(A, dims=(-1, 0)) @ bias,
        "swapaxes": lambda A: A.swapaxes(0, 1) @ bias,
        "torch.swapaxes": lambda A: torch.swapaxes(A, axis0=0, axis1=1) @ bias,
        "torch.swapdims": lambda A: torch.swapdims(A, dim0=0, dim1=1) @ bias,
        "conj": lambda A: torch.conj(A) @ x[0].mT,
    }
    for name, form in forms.items():
        values = A.values.detach().clone().requires_grad_()
        dense = matrix.clone().requires_grad_()
        got, expected = form(A.with_values(values)), form(dense)
        torch.testing.assert_close(got, expected, msg=name)
        assert got.is_contiguous(), name
        got.sum().backward()
        expected.sum().backward()
        assert dense.grad is not None
        torch.testing.assert_close(values.grad, dense.grad[matrix != 0], msg=name)
    for wrong in (lambda: torch.nn.functional.linear(A, x[0]), lambda: torch.nn.functional.linear(A, A)):
        with pytest.raises(NotImplementedError, match="can be the weight of linear"):
            wrong()
    for order in ((3, 2), (-3, 0), (1,), (0, 1)):
        with pytest.raises(NotImplementedError, match="can be permuted to dimensions 1, 0"):
            A.permute(*order)


def test_linear_checks_what_torch_checks() -> None:
    A, x, bias = myops.CSR.from_torch(torch.randn(5, 3).relu()), torch.randn(4, 3), torch.randn(5)
    linear = torch.nn.functional.linear
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        assert linear(x, A, bias).dtype == linear(x, A).dtype == torch.bfloat16
    with pytest.raises(RuntimeError, match="must have the same dtype"):
        linear(x, A, bias.double())
    with pytest.raises(RuntimeError, match=r"bias must have shape \[5\], but got \[4, 5\]"):
        linear(x, A, bias.expand(4, 5))
    with pytest.raises(RuntimeError, match="got a 0-D tensor"):
        linear(x[0, 0], A)
    empty = myops.CSR.from_torch(torch.zeros(5, 0))
    torch.testing.assert_close(linear(x[:, :0], empty, bias), bias.expand(4, 5))
    assert linear(x[:0], A, bias).shape == (0, 5)
    torch.testing.assert_close(linear(x, A, bias[:1]), linear(x, A) + bias[:1])


def test_conjugates_of_complex_values() -> None:
    matrix = torch.randn(5, 4, dtype=torch.complex64)
    A, x, y = (
        myops.CSR.from_torch(matrix),
        torch.randn(5, 2, dtype=torch.complex64),
        torch.randn(4, 2, dtype=torch.complex64),
    )
    torch.testing.assert_close(A.mH @ x, matrix.mH @ x)
    torch.testing.assert_close(torch.adjoint(A) @ x, matrix.mH @ x)
    torch.testing.assert_close(A.conj() @ y, matrix.conj() @ y)


def test_detach_in_place_freezes_the_matrix_alone() -> None:
    values = torch.nn.Parameter(torch.ones(4))
    A, x = myops.CSR.from_torch(torch.eye(4)).with_values(values), torch.randn(4, 3)
    assert (A @ x).requires_grad
    assert A.detach_() is A
    assert not (A @ x).requires_grad
    assert values.requires_grad


@pytest.mark.parametrize("strict", [True, False])
def test_export_takes_the_parts(strict: bool) -> None:
    class Holds(torch.nn.Module):
        A: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("A", myops.CSR.from_torch(torch.eye(4)))

        def forward(self, x: Tensor) -> Tensor:
            return self.A @ x

    class Makes(torch.nn.Module):
        def forward(self, crow: Tensor, col: Tensor, values: Tensor, x: Tensor) -> Tensor:
            return myops.CSR(crow, col, values, (4, 4)) @ x

    x = torch.randn(4, 3)
    words = r"torch.export takes the parts of a myops.CSR" if strict else "fake tensor"  # the second are torch's
    with pytest.raises(Exception, match=words):
        torch.export.export(Holds(), (x,), strict=strict)
    A = myops.CSR.from_torch(2 * torch.eye(4))
    program = torch.export.export(Makes(), (A.crow, A.col, A.values, x), strict=strict)
    torch.testing.assert_close(program.module()(A.crow, A.col, A.values, x), 2 * x)


def test_what_has_no_memory_of_its_own_says_so() -> None:
    A = myops.CSR.from_torch(torch.eye(4))
    with pytest.raises(RuntimeError, match="data pointer"):
        torch.utils.dlpack.to_dlpack(A)
    for form in (lambda: torch.matmul(A, numpy.ones((4, 2))), lambda: numpy.ones((2, 4)) @ A):
        with pytest.raises(TypeError, match="must be (a )?Tensor|unsupported operand"):
            form()
    with pytest.raises(RuntimeError, match=r"cannot copy a Tensor of \[100, 100\] into CSR") as error:
        A.copy_(torch.randn(100, 100))
    assert len(str(error.value)) < 200


def of_rows(*rows: list[float]) -> myops.CSR:
    return myops.CSR.from_torch(torch.tensor(rows, dtype=torch.float64).to_sparse_csr())


@pytest.mark.parametrize(
    "other", [[[1.0, 2, 0, 0], [0, 0, 3, 0]], [[0.0, 0, 4], [0, 0, 0]]], ids=["columns", "entries"]
)
def test_a_copy_needs_the_same_columns_and_entries(other: list[list[float]]) -> None:
    a = of_rows([1, 2, 0], [0, 0, 3])
    before = a.to_dense()
    with pytest.raises(RuntimeError, match="cannot copy"):
        a.copy_(of_rows(*other))
    assert torch.equal(a.to_dense(), before)


@pytest.mark.parametrize("transpose", [True, False])
def test_a_copy_takes_the_transposed_pattern(transpose: bool) -> None:
    a, b = of_rows([1, 2, 0], [0, 0, 3]), of_rows([0, 0, 4], [5, 6, 0])
    a.copy_(b if transpose else myops.CSR(b.crow, b.col, b.values, (2, 3)))
    x = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    (a @ x).sum().backward()
    assert torch.equal(x.grad, b.to_dense().mT @ torch.ones(2, 2, dtype=torch.float64))
    assert torch.equal(a.t_perm, b.t_perm)


def test_shared_means_every_part() -> None:
    a = of_rows([1, 2, 0], [0, 0, 3])
    a.values.share_memory_()
    assert not a.is_shared()


def test_a_copied_module_keeps_what_its_matrices_share() -> None:
    a = of_rows([1, 2, 0], [0, 0, 3])
    first, second = copy.deepcopy((a, a.with_values(2 * a.values)))
    assert first.crow is second.crow
    assert first.t_perm is second.t_perm
    trained = a.with_values(a.values.clone().requires_grad_() * 1)
    assert copy.deepcopy(trained).values.requires_grad


@pytest.mark.parametrize("dims", [(0, 3), (-3, 0), (1, 2)])
def test_transposes_over_other_dimensions_are_refused(dims: tuple[int, int]) -> None:
    with pytest.raises(NotImplementedError, match="can be transposed over dimensions 0 and 1"):
        of_rows([1, 2, 0]).transpose(*dims)


def test_permutations_that_keep_the_order_are_refused() -> None:
    with pytest.raises(NotImplementedError, match="can be permuted to dimensions 1, 0"):
        torch.ops.aten.permute(of_rows([1, 2, 0]), (0, 1))


def test_no_grad_in_a_transform_takes_values_that_require_grad() -> None:
    a = of_rows([1, 2, 0], [0, 0, 3])
    trained = a.with_values(a.values.clone().requires_grad_())
    with torch.no_grad():
        got = torch.ops.aten.mm(trained, torch.eye(3, dtype=torch.float64))
    assert torch.equal(got, a.to_dense())


def test_conversions_inside_a_transform_keep_the_gradient_of_traced_values() -> None:
    a = of_rows([1, 2, 0], [0, 0, 3])
    x = torch.ones(3, 2, dtype=torch.float64)
    for convert in (torch.clone, lambda m: m.to(torch.float32).double(), lambda m: m.float().double()):
        got = torch.func.grad(lambda v, f=convert: (f(a.with_values(v)) @ x).sum())(a.values)
        torch.testing.assert_close(got, torch.full_like(a.values, 2.0))
