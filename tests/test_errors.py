"""Bad calls: the exception type of torch, a message that names the argument, and nothing written before it."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

import myops
from myops.registration import COMPONENTS, OPERATORS, Operator

expecttest = pytest.importorskip("expecttest", reason="pinned texts")


def native(name: str) -> Any:
    return torch.nn.functional.linear if name == "linear" else getattr(torch, name)


def test_bad_calls(row: Operator, device: str) -> None:
    calls = list(row.bad_calls(device))
    assert len(calls) >= 3
    for call in calls:
        args, kwargs = call.sample.args, call.sample.kwargs
        for function in (getattr(myops, row.name), row.packet):
            with pytest.raises(call.exception, match=re.escape(call.words)) as raised:
                function(*args, **kwargs)
            assert type(raised.value) is call.exception, (row.name, call.words)


def test_types_are_torchs(row: Operator, device: str) -> None:
    """The same call raises the same type from torch's own operator, where torch refuses it at all."""
    for call in row.bad_calls(device):
        if any(isinstance(a, torch.dtype) for a in call.sample.args):
            continue  # out_dtype is CUDA's in torch: NotImplementedError here, whatever the mistake
        if "activation" in call.sample.kwargs:
            continue  # which torch does not have
        try:
            native(row.name)(*call.sample.args, **call.sample.kwargs)
        except Exception as error:
            if isinstance(error, NotImplementedError) and "_cuda" in str(error):
                continue  # torch has no integer products there, whatever else is wrong with the call
            assert type(error) is call.exception, (row.name, call.words, error)


def test_fakes_refuse_the_same_calls(row: Operator) -> None:
    """What the kernel refuses, compile and the meta device refuse too, before anything runs."""
    for call in row.bad_calls("cpu"):
        if "alpha" in call.sample.kwargs or "beta" in call.sample.kwargs:
            continue  # the values of scalars are the kernel's to check
        args = [a.to("meta") if isinstance(a, Tensor) else a for a in call.sample.args]
        with pytest.raises(call.exception):
            getattr(myops, row.name)(*args, **call.sample.kwargs)


@pytest.mark.parametrize("name", [*OPERATORS, *COMPONENTS])
@pytest.mark.parametrize("other", [torch.float8_e4m3fn, torch.uint16, torch.complex32])
def test_fakes_refuse_dtypes_without_a_kernel_in_its_words(name: str, other: torch.dtype) -> None:
    row = OPERATORS.get(name) or COMPONENTS[name]
    sample = next(iter(row.samples("cpu", torch.float64)))

    def call(args: list[Any]) -> str:
        with pytest.raises(NotImplementedError, match=f"of dtype {str(other).removeprefix('torch.')}") as raised:
            row.op(*args, **sample.kwargs)
        return str(raised.value)

    args = [a.to(other) if isinstance(a, Tensor) and a.dtype == torch.float64 else a for a in sample.args]
    words = call(args)
    with FakeTensorMode(shape_env=ShapeEnv()) as mode:
        assert call([mode.from_tensor(a) if isinstance(a, Tensor) else a for a in args]) == words


def test_fakes_agree_with_kernels(row: Operator, dtype: torch.dtype) -> None:
    """Shape, strides and dtype on the meta device are those of the real result."""
    for sample in row.samples("cpu", dtype):
        real = getattr(myops, row.name)(*sample.args, **sample.kwargs)
        args = [a.to("meta") if isinstance(a, Tensor) else a for a in sample.args]
        if any(isinstance(a, Tensor) and a.stride() != b.stride() for a, b in zip(sample.args, args, strict=True)):
            continue  # .to("meta") does not keep overlapping strides
        fake = getattr(myops, row.name)(*args, **sample.kwargs)
        assert (fake.shape, fake.dtype) == (real.shape, real.dtype), sample.name
        assert fake.stride() == real.stride(), sample.name


def test_nothing_is_written_before_the_checks(row: Operator, device: str) -> None:
    for call in row.bad_calls(device):
        out = torch.full((2, 2), 42.0, device=device)
        with pytest.raises((RuntimeError, NotImplementedError)):
            row.packet.out(*call.sample.args, **call.sample.kwargs, out=out)
        assert bool((out == 42).all()), call.words


BAD_OUT = {
    "Expected out tensor to have dtype float32, but got float64 instead": lambda: torch.empty(2, 2).double(),
    "Expected out to have shape [2, 2], but got [2, 3]": lambda: torch.empty(2, 3),
    "more than one of its elements refers to a single memory location": lambda: torch.empty(2, 1).expand(2, 2),
}


@pytest.mark.parametrize("words", list(BAD_OUT))
def test_bad_out(words: str) -> None:
    a, b = torch.randn(2, 3), torch.randn(3, 2)
    with pytest.raises(RuntimeError, match=re.escape(words)):
        torch.ops.myops.mm.out(a, b, out=BAD_OUT[words]())
    with pytest.raises(RuntimeError, match=re.escape(words)):
        torch.ops.myops.addmm.out(a[:, :2], a, b, out=BAD_OUT[words]())


def test_in_place_cannot_broadcast() -> None:
    with pytest.raises(RuntimeError, match=re.escape("Expected input to have shape [2, 2], but got [2]")):
        myops.addmm_(torch.ones(2), torch.ones(2, 3), torch.ones(3, 2))
    with pytest.raises(RuntimeError, match=re.escape("Expected input to have shape [2, 3], but got [3]")):
        myops.add_(torch.ones(3), torch.ones(2, 3))
    with pytest.raises(RuntimeError, match="can't be cast to the desired output type"):
        myops.add_(torch.ones(3).int(), torch.ones(3))
    with pytest.raises(RuntimeError, match="one of its elements refers to a single memory location"):
        myops.add_(torch.ones(1).expand(3), torch.ones(3))


def test_sparse_layouts_are_named() -> None:
    sparse = torch.eye(3).to_sparse()
    for function in (myops.mm, torch.ops.myops.mm):
        with pytest.raises(NotImplementedError, match="sparse") as raised:
            function(sparse, torch.ones(3, 3))
    with pytest.raises(
        NotImplementedError, match="takes strided tensors, but input has layout torch.sparse_coo; see myops.sparse.mm"
    ):
        myops.mm(sparse, torch.ones(3, 3))
    del raised


def test_not_a_tensor_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="mat2 must be a Tensor, but got list"):
        myops.mm(torch.ones(2, 2), [[1.0, 2.0], [3.0, 4.0]])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="input must be a Tensor, but got float"):
        myops.addmm(1.0, torch.ones(2, 2), torch.ones(2, 2))  # type: ignore[arg-type]


def test_not_a_tensor_beside_one_that_is() -> None:
    a, packed = torch.ones(2, 2), myops.pack_weight(torch.ones(2, 2))
    for words, call in (
        ("myops.mm: input must be a Tensor, but got int", lambda: myops.mm(1, a, out=a.clone())),
        ("myops.matmul: other must be a Tensor, but got NoneType", lambda: myops.matmul(a, None, out=a.clone())),
        ("myops.linear: weight must be a Tensor, but got ndarray", lambda: myops.linear(a, a.numpy(), out=a.clone())),
        ("myops.linear: input must be a Tensor, but got int", lambda: myops.linear(1, packed)),
        ("myops.addmm: input must be a Tensor, but got NoneType", lambda: myops.addmm_(None, a, a)),
        ("input must be a Tensor, but got int", lambda: myops.sparse.sampled_addmm(1, a, a)),
    ):
        with pytest.raises(TypeError, match=re.escape(words)):
            call()


def test_an_out_that_is_refused_keeps_its_shape() -> None:
    a, b = torch.randn(4, 3), torch.randn(3, 5)
    for out, words in (
        (torch.empty(0, dtype=torch.float64), "Expected out tensor to have dtype float32, but got float64"),
        (torch.empty(0, device="meta"), "but out is on meta and the result on cpu"),
        (torch.empty(0, requires_grad=True), "don't support automatic differentiation"),
    ):
        with pytest.raises(RuntimeError, match=words):
            myops.mm(a, b, out=out)
        assert out.shape == (0,)
    out = torch.empty(0)
    with pytest.raises(RuntimeError, match="must have the same dtype"):
        myops.mm(a, b.double(), out=out)
    assert out.shape == (0,)
    assert myops.mm(a, b, out=out).shape == (4, 5)
    sum_ = torch.empty(0, dtype=torch.float64)  # which takes what the result can be cast to
    assert myops.add(a, a, out=sum_).shape == (4, 3)


def test_an_out_that_is_an_operand_is_not_resized() -> None:
    x, y = torch.arange(6.0).view(2, 3), torch.ones(3, 5)
    for call, out in (
        (lambda out: myops.add(x[0], x, out=out), x[0]),
        (lambda out: myops.add(x, x, out=out), x[:1]),
        (lambda out: myops.mm(x, y, out=out), x),
        (lambda out: myops.addmm(x[0, :2], x[:, :2], x[:, :2], out=out), x[0, :2]),
        (lambda out: myops.add(x, x, out=out), x.view(-1)[:0]),
    ):
        before, shape = x.clone(), out.shape
        with pytest.raises(RuntimeError, match="would be resized, but shares memory with an operand"):
            call(out)
        assert torch.equal(x, before)
        assert out.shape == shape


def test_scalars_are_looked_at_before_out_is_resized() -> None:
    a, out = torch.ones(2, 2), torch.empty(0)
    with pytest.raises(TypeError, match="alpha must be a number"):
        myops.addmm(a, a, a, alpha=torch.ones(2), out=out)
    assert out.shape == (0,)


def test_integers_beyond_their_dtype() -> None:
    for dtype, bad in ((torch.int8, 2**60), (torch.uint8, -(2**60)), (torch.int32, 2**54), (torch.int64, 2**63)):
        i = torch.ones(2, 2, dtype=dtype)
        for call in (lambda i=i, n=bad: myops.addmm(i, i, i, alpha=n), lambda i=i, n=bad: myops.add(i, i, alpha=n)):
            with pytest.raises(RuntimeError, match="cannot be converted to u?int[0-9]+ without overflow"):
                call()
    i = torch.ones(2, 2, dtype=torch.int64)
    with pytest.raises(RuntimeError, match="cannot be converted to int64 without overflow"):
        myops.addmm(i, i, i, alpha=1e39)
    assert myops.addmm(i, i, i, alpha=-(2**63)).tolist() == [[1, 1], [1, 1]]


def test_other_arguments_are_type_errors() -> None:
    a = torch.ones(2, 2)
    for call, words in (
        (lambda: myops.mm(None, a), "input must be a Tensor, but got NoneType"),
        (lambda: torch.ops.myops.addmm(a, a, None), "mat2 must be a Tensor, but got NoneType"),
        (lambda: myops.addmm(a, a, a, alpha="2"), "argument 'alpha'"),
        (lambda: myops.add(a, a, alpha=None), "argument 'alpha'"),
        (lambda: myops.linear(a, a, "bias"), "bias must be a Tensor, but got str"),
        (lambda: myops.mm(a, a, out=[[0.0]]), "out must be a Tensor, but got list"),
        (lambda: myops.add_(1, a), "input must be a Tensor, but got int"),
        (lambda: myops.add_(1, 2), "input must be a Tensor, but got int"),
    ):
        with pytest.raises(TypeError, match=words):
            call()


def test_scalars_that_no_gradient_would_reach() -> None:
    """As torch: a tensor is a scalar where it has one element, no dimension and no gradient."""
    a, sparse = torch.ones(2, 2), torch.eye(2).to_sparse_csr()
    for scalar, words in (
        (torch.tensor(2.0, requires_grad=True), "must be a number or a 0-D tensor without gradient, but got a tensor"),
        (torch.tensor([2.0]), "must be a number or a 0-D tensor without gradient, but got a 1-D tensor"),
    ):
        for function, args in (
            (myops.add, (a, a)),
            (myops.add_, (a, a)),
            (myops.addmm, (a, a, a)),
            (myops.sparse.addmm, (a, sparse, a)),
            (myops.sparse.sampled_addmm, (sparse, a, a)),
        ):
            with pytest.raises(TypeError, match=f"alpha {words}"):
                function(*args, alpha=scalar)
    with pytest.raises(TypeError, match="alpha must be"):
        torch.func.grad(lambda alpha: myops.add(a, a, alpha=alpha).sum())(torch.tensor(2.0))


def test_plan_and_peak_refuse_what_has_none() -> None:
    for sizes, words in (((0, 2, 3), "m must"), ((2, -1, 3), "n must"), ((2, 3, -1), "k must be at least 0")):
        with pytest.raises(ValueError, match=words):
            myops.plan(*sizes)
    for counts in ({"batch": 0}, {"threads": 0}):
        with pytest.raises(ValueError, match="must be at least 1, but got 0"):
            myops.plan(2, 3, 4, **counts)
    with pytest.raises(ValueError, match="threads must be at least 1"):
        myops.peak_gflops(threads=0)
    assert myops.plan(2, 3, 0)
    for sizes in ((2**64, 2, 3), (2, 2**63, 3), (2, 3, 2**48)):  # what C would take for another number
        with pytest.raises(ValueError, match="must be less than 281474976710656"):
            myops.plan(*sizes)
    for function in (lambda: myops.plan(2, 3, 4, dtype=torch.bool), lambda: myops.peak_gflops(torch.bool)):
        with pytest.raises(NotImplementedError, match="not implemented for dtype bool"):
            function()


def test_dtypes_that_differ_come_before_a_dtype_without_a_kernel() -> None:
    a, b = torch.ones(2, 2), torch.ones(2, 2).bool()
    for device in ("cpu", "meta"):
        x, y = a.to(device), b.to(device)
        for call in (
            lambda x=x, y=y: myops.mm(y, x),
            lambda x=x, y=y: myops.addmm(x, y, y),
            lambda x=x, y=y: myops.linear(y, y, x[0]),
        ):
            with pytest.raises(RuntimeError, match="must have the same dtype") as raised:
                call()
            assert type(raised.value) is RuntimeError


def test_fakes_refuse_devices_that_differ() -> None:
    """Whichever operand it is; the numbers that a 0-dim CPU tensor adds go with any device."""
    ops, a = torch.ops.myops, torch.ones(2, 2)
    crow, col = torch.tensor([0, 1, 2], device="meta"), torch.tensor([1, 0], device="meta")
    calls: list[tuple[Any, tuple[Any, ...]]] = [
        (ops.add, (a, a)),
        (ops.mm, (a, a)),
        (ops.addmm, (a, a, a)),
        (ops.baddbmm, (a, a[None], a[None])),
        (ops.linear, (a, a, a[0])),
        (lambda *rest: ops.spmm(crow, col, *rest), (a[0], a, a)),
        (lambda x, y, out: ops.mm.out(x, y, out=out), (a, a, a)),
        (lambda x, y: ops.addmm_(x, y, y), (a, a)),
    ]
    for function, args in calls:
        for here in range(len(args)):
            mixed = [t if i == here else t.to("meta") for i, t in enumerate(args)]
            with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
                function(*mixed)
    for pair in ((a.to("meta"), a[0, 0]), (a[0, 0], a.to("meta"))):
        assert ops.add(*pair).is_meta


def test_fakes_refuse_the_same_out() -> None:
    x = torch.ones(2, 2)
    for device in ("cpu", "meta"):
        a = x.to(device)
        for operator, out, words in (
            ("mm", a.double(), "Expected out tensor to have dtype float32, but got float64 instead"),
            ("addmm", a.half(), "Expected out tensor to have dtype float32, but got float16 instead"),
            ("add", a.int(), "result type float32 can't be cast to the desired output type int32 of out"),
            ("add", a[0], r"Expected out to have shape \[2, 2\], but got \[2\]"),
        ):
            args = [a] * (3 if operator == "addmm" else 2)
            with pytest.raises(RuntimeError, match=words):
                getattr(torch.ops.myops, operator).out(*args, out=out)
        with pytest.raises(RuntimeError, match="can't be cast to the desired output type"):
            torch.ops.myops.add_(a.int(), a)
        torch.ops.myops.add.out(a.int(), a.int(), out=a)


def test_fakes_refuse_alphas_that_are_no_whole_numbers() -> None:
    alphas = (0.5, math.inf, -math.inf, math.nan)
    for device, dtype, alpha in itertools.product(("cpu", "meta"), (torch.int32, torch.bool), alphas):
        a = torch.ones(2, device=device, dtype=dtype)
        with pytest.raises(RuntimeError, match="alpha must not be a floating point number"):
            torch.ops.myops.add(a, a, alpha=alpha)


def test_alpha_of_bool() -> None:
    """Any whole number is true or false; a bool scales nothing else."""
    a, b = torch.tensor([True, False, True, False]), torch.tensor([[True], [False]])
    for alpha in (0, 1, 2, -1, True, False):
        assert torch.equal(myops.add(a, b, alpha=alpha), torch.add(a, b, alpha=alpha))
        assert torch.equal(myops.add(b, a, alpha=alpha), torch.add(b, a, alpha=alpha))
        assert torch.equal(myops.add_(a.clone(), b[0], alpha=alpha), a.clone().add_(b[0], alpha=alpha))
    for x in (a.int(), a.float()):
        for function in (myops.add, lambda *args, **kwargs: myops.add_(*args, **kwargs)):
            with pytest.raises(RuntimeError, match="Boolean alpha only supported for Boolean results, but got True"):
                function(x, x, alpha=True)
    with pytest.raises(RuntimeError, match="must not be a floating point number, but got 0.5"):
        myops.add(a, a, alpha=0.5)


def test_more_dimensions_than_there_is_room_for(device: str) -> None:
    weight = torch.ones(3, 1, device=device)
    for dtype in (torch.float32, torch.complex64):
        x, row = torch.ones([1] * 64, device=device, dtype=dtype), torch.ones(1, device=device, dtype=dtype)
        assert myops.add(x, x).dim() == 64
        assert [myops.matmul(*pair).dim() for pair in ((x, x), (x, row), (row, x))] == [64, 63, 63]
        assert myops.linear(x, weight.to(dtype), weight[:, 0].to(dtype)).shape == (*x.shape[:-1], 3)
        for dims in (65, 100, 1000):
            x = torch.ones([1] * dims, device=device, dtype=dtype)
            calls = {
                "input": [
                    lambda x=x: myops.add(x, x),
                    lambda x=x, row=row: myops.add(x, row),
                    lambda x=x: myops.add_(x.clone(), x),
                    lambda x=x: myops.matmul(x, x),
                    lambda x=x, row=row: myops.matmul(x, row),
                    lambda x=x: myops.linear(x, weight.to(x.dtype)),
                ],
                "other": [lambda x=x, row=row: myops.add(row, x), lambda x=x, row=row: myops.matmul(row, x)],
            }
            for name, of_name in calls.items():
                for call in of_name:
                    with pytest.raises(RuntimeError, match=f"at most 64 dimensions, but {name} has {dims}"):
                        call()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs two devices")
def test_mixed_devices_are_named() -> None:
    with pytest.raises(RuntimeError, match="mat2 is on cpu and input is on cuda:0"):
        myops.mm(torch.ones(2, 2, device="cuda"), torch.ones(2, 2))


class TestMessages(expecttest.TestCase):
    """The words themselves, pinned."""

    def message(self, function: Any, *args: Any, **kwargs: Any) -> str:
        try:
            function(*args, **kwargs)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return "no error"

    def test_pinned(self) -> None:
        t = torch.ones
        lines = [
            self.message(myops.mm, t(2, 3), t(4, 2)),
            self.message(myops.mm, t(2, 3), t(3)),
            self.message(myops.mm, t(2, 3), t(3, 2).double()),
            self.message(myops.mm, t(2, 3), t(3, 2), torch.float16),
            self.message(myops.mm, t(2, 3).bool(), t(3, 2).bool()),
            self.message(myops.addmm, t(3), t(2, 3), t(3, 2)),
            self.message(myops.addmm, t(2).int(), t(2, 3).int(), t(3, 2).int(), beta=0.5),
            self.message(myops.addmm, t(2), t(2, 3), t(3, 2), alpha=1j),
            self.message(myops.bmm, t(2, 3, 4), t(3, 4, 2)),
            self.message(myops.baddbmm, t(3), t(2, 2, 3), t(2, 3, 2)),
            self.message(myops.matmul, t(()), t(3)),
            self.message(myops.linear, t(2, 3), t(5, 3), t(4)),
            self.message(myops.add, t(2).int(), t(2).int(), alpha=1.5),
        ]
        self.assertExpectedInline(
            "\n".join(lines),
            """\
RuntimeError: input and mat2 shapes cannot be multiplied (2x3 and 4x2)
RuntimeError: mat2 must be a matrix, got 1-D tensor
RuntimeError: input and mat2 must have the same dtype, but got float32 and float64
RuntimeError: out_dtype must be the dtype of input (float32), float32 for bfloat16 and float16, or int32 for int8 and uint8, but got float16
NotImplementedError: myops.mm is not implemented for input of dtype bool
RuntimeError: input of shape [3] cannot be broadcast to the result's shape [2, 2]
RuntimeError: For integral tensors, argument beta must not be a floating point number, but got 0.5
RuntimeError: For non-complex input tensors, argument alpha must not be a complex number, but got 1j
RuntimeError: Expected size for first two dimensions of mat2 tensor to be: [2, 4] but got: [3, 4]
RuntimeError: input of shape [3] cannot be broadcast to the result's shape [2, 2, 2]
RuntimeError: both arguments to matmul need to be at least 1D, but input is 0D and other is 1D
RuntimeError: bias must have shape [5], but got [4]
RuntimeError: For integral tensors, argument alpha must not be a floating point number, but got 1.5""",
        )


def test_out_takes_no_tangent(device: str) -> None:
    """As torch: the tangent of an operand would be lost."""
    a = torch.ones(2, 2, device=device)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(a, a)
        for call in (myops.mm, myops.matmul, myops.add):
            out = torch.full_like(a, 7)
            with pytest.raises(RuntimeError, match="don't support automatic differentiation"):
                call(dual, a, out=out)
            assert bool((out == 7).all())
            call(a, a, out=out)


def test_an_empty_result_is_written_whatever_its_strides() -> None:
    out = torch.zeros(0, 1).expand(0, 5)
    assert myops.mm(torch.ones(0, 3), torch.ones(3, 5), out=out) is out
    assert myops.add_(out, 1) is out


def test_a_result_that_does_not_fit_into_memory() -> None:
    a = torch.ones(1, 1).expand(2**23, 1)
    with pytest.raises(RuntimeError, match=re.escape("not enough memory for a tensor of shape [8388608, 8388608]")):
        myops.mm(a, a.t())
