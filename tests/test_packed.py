"""Packed weights: the bits of the batch-invariant product, the way back, storage, other instruction sets, errors."""

from __future__ import annotations

import copy
import functools
import io
import os
import pickle
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import COMPLEX, FLOATS, OTHER_LEVELS, run_on_level, wide
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.utils.flop_counter import FlopCounterMode

import myops
from myops.activation import ACTIVATIONS, activations_of
from myops.ops._gemm import tensor
from myops.ops.linear_packed import LinearPacked

ROW = LinearPacked()
ops = torch.ops.myops
SHAPES = [(1, 1), (5, 3), (16, 31), (17, 33), (64, 64), (65, 100), (130, 385), (70, 2100), (600, 1030), (3, 0), (0, 3)]


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    yield
    torch._dynamo.reset()


def bits(t: Tensor) -> Tensor:
    return t.contiguous().view(torch.uint8)


def weights(shape: tuple[int, int], dtype: torch.dtype) -> Iterator[Tensor]:
    n, k = shape
    yield tensor((n, k), "cpu", dtype)
    yield tensor((k, n), "cpu", dtype).mT
    yield tensor((n, 2 * k + 1), "cpu", dtype)[:, 1::2]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bits_of_the_batch_invariant_product(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    n, k = shape
    for weight in weights(shape, dtype):
        packed = myops.pack_weight(weight)
        assert (packed.shape, packed.dtype) == (weight.shape, dtype)
        for m in (1, 2, 7, 13, 33, 70):
            x, bias = tensor((m, k), "cpu", dtype), tensor((n,), "cpu", dtype)
            got = myops.linear(x, packed, bias)
            assert got.shape == (m, n)
            with myops.use((), batch_invariant=True):
                assert torch.equal(bits(got), bits(myops.linear(x, weight, bias))), m
                assert torch.equal(bits(myops.linear(x, packed)), bits(myops.linear(x, weight))), m
                for f in activations_of(dtype):
                    name = ACTIVATIONS[f]
                    got = myops.linear(x, packed, bias, name)
                    assert torch.equal(bits(got), bits(myops.linear(x, weight, bias, name))), (m, name)


def test_the_way_back_is_exact(dtype: torch.dtype) -> None:
    for shape in SHAPES:
        for weight in weights(shape, dtype):
            back = myops.pack_weight(weight).unpack()
            assert back.dtype == dtype
            assert back.is_contiguous()
            assert torch.equal(back, weight)


def test_samples(dtype: torch.dtype) -> None:
    for sample in ROW.samples("cpu", dtype):
        got = ops.linear_packed(*sample.args, **sample.kwargs)
        x, panels, *rest = sample.args
        exact = ROW.reference(x.to(wide(dtype)), panels, *(t.to(wide(dtype)) for t in rest), **sample.kwargs)
        if dtype.is_floating_point or dtype.is_complex:
            rtol = 2 * torch.finfo(dtype).eps
            torch.testing.assert_close(got.to(exact.dtype), exact, rtol=rtol, atol=40 * rtol)
        else:
            assert torch.equal(got, exact.to(dtype)), sample.name


def test_layouts_of_input_and_threads() -> None:
    packed, before = myops.pack_weight(torch.randn(300, 500)), torch.get_num_threads()
    x = torch.randn(2, 500, 9)
    expected = myops.linear(x.mT.contiguous(), packed)
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(myops.linear(x.mT, packed), expected)
            assert torch.equal(myops.linear(x[1, :, 4], packed), expected[1, 4])
            assert torch.equal(myops.linear(x.mT[:, ::2], packed), expected[:, ::2])
    finally:
        torch.set_num_threads(before)


def test_conjugate_input() -> None:
    packed = myops.pack_weight(torch.randn(7, 5, dtype=torch.complex64))
    x = torch.randn(3, 5, dtype=torch.complex64)
    assert torch.equal(myops.linear(x.conj(), packed), myops.linear(x.conj().resolve_conj(), packed))


def test_what_it_says_of_itself() -> None:
    """The panels of a block of k, as `plan` has them."""
    packed = myops.pack_weight(torch.ones(40, 500))
    found = re.fullmatch(r"kc=(\d+) panel=(\d+)x(\d+) group=1 depth=1 bytes=4", packed.format)
    assert found is not None, packed.format
    kc, vectors, lanes = map(int, found.groups())
    plan = myops.plan(1000, 1000, 500)
    assert f" kc={kc} " in plan
    assert f"x{vectors * lanes} " in plan
    assert repr(packed) == f"PackedWeight(40 x 500, float32, {packed.nbytes} bytes, {packed.format})"


def stored(packed: myops.PackedWeight) -> Iterator[myops.PackedWeight]:
    yield copy.deepcopy(packed)
    yield pickle.loads(pickle.dumps(packed))
    for weights_only in (True, False):
        file = io.BytesIO()
        torch.save({"w": packed}, file)
        file.seek(0)
        yield torch.load(file, weights_only=weights_only)["w"]


def test_storage(dtype: torch.dtype) -> None:
    packed = myops.pack_weight(tensor((33, 40), "cpu", dtype))
    for other in stored(packed):
        assert torch.equal(other.panels, packed.panels)
        assert other.panels.data_ptr() != packed.panels.data_ptr()
        assert (other.shape, other.dtype) == (packed.shape, packed.dtype)


@pytest.mark.parametrize("level", [level for level in myops.isa_levels() if level != myops.isa()])
def test_panels_from_another_instruction_set(level: str, tmp_path: Path) -> None:
    """Panels that another level made are repacked when they are loaded; as they are, the operator refuses them."""
    script = (
        "import sys, torch, myops\n"
        "weights = torch.load(sys.argv[1])\n"
        "torch.save([myops.pack_weight(w) for w in weights], sys.argv[2])\n"
        "torch.save([myops.pack_weight(w).panels for w in weights], sys.argv[3])\n"
    )
    kinds = [*FLOATS, *COMPLEX, torch.int8, torch.uint8, torch.int16, torch.int64]
    made = [tensor((70, 500), "cpu", kind) for kind in kinds]
    paths = [str(tmp_path / name) for name in ("weights", "packed", "panels")]
    torch.save(made, paths[0])
    environment = {**os.environ, "MYOPS_ISA": level}
    subprocess.run([sys.executable, "-c", script, *paths], env=environment, check=True, timeout=600)
    refused = 0
    for weight, packed, panels in zip(made, torch.load(paths[1]), torch.load(paths[2]), strict=True):
        here = myops.pack_weight(weight)
        assert torch.equal(packed.panels, here.panels), weight.dtype
        if torch.equal(panels, here.panels):
            continue
        refused += 1
        with pytest.raises(RuntimeError, match="packed for another instruction set"):
            ops.linear_packed(weight[:1], panels, out_features=70, dtype=weight.dtype)
    assert refused or (level, myops.isa()) == ("avx512", "avx512_bf16")


@pytest.mark.parametrize("dtype64", [torch.float64, torch.complex128], ids=str)
def test_gradients_of_input_and_bias(dtype64: torch.dtype) -> None:
    for sample in list(ROW.samples("cpu", dtype64, requires_grad=True))[:6]:
        x, panels, *rest = sample.args

        def function(x: Tensor, *rest: Tensor, panels: Tensor = panels, sample: object = sample) -> Tensor:
            return ops.linear_packed(x, panels, *rest, **sample.kwargs)  # type: ignore[attr-defined]

        assert gradcheck(function, (x, *rest), check_batched_grad=True, check_forward_ad=not rest)
        assert gradgradcheck(function, (x, *rest))


def test_training_through_a_packed_layer() -> None:
    weight, x = torch.randn(6, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    myops.linear(x, myops.pack_weight(weight)).sum().backward()
    torch.testing.assert_close(x.grad, weight.sum(0).expand(3, 4))


@pytest.mark.parametrize("activation", ACTIVATIONS[1:])
def test_gradients_through_an_activation(activation: str) -> None:
    weight, bias, x = (torch.randn(shape).double() for shape in ((6, 4), (6,), (3, 4)))
    packed = myops.pack_weight(weight)
    leaves = x.requires_grad_(), bias.requires_grad_()
    assert gradcheck(lambda x, b: myops.linear(x, packed, b, activation), leaves)
    assert gradgradcheck(lambda x, b: myops.linear(x, packed, b, activation), leaves)
    tangents = torch.func.jvp(lambda x: myops.linear(x, packed, bias, activation), (x,), (torch.ones_like(x),))
    expected = torch.func.jvp(lambda x: myops.linear(x, weight, bias, activation), (x,), (torch.ones_like(x),))
    torch.testing.assert_close(tangents, expected)


def test_a_weight_that_wants_gradients_is_refused() -> None:
    weight = torch.nn.Parameter(torch.randn(5, 3))
    with pytest.raises(RuntimeError, match="weight requires grad, and a packed weight is a constant"):
        myops.pack_weight(weight)
    with pytest.raises(RuntimeError, match="weight requires grad"):
        torch.func.grad(lambda w: myops.linear(torch.ones(2, 3), myops.pack_weight(w)).sum())(weight.detach())
    with pytest.raises(RuntimeError, match="weight requires grad"):
        torch.func.jvp(lambda w: ops.pack_weight(w), (weight.detach(),), (weight.detach(),))
    with torch.no_grad():
        expected = myops.pack_weight(weight).panels
    assert torch.equal(myops.pack_weight(weight.detach()).panels, expected)


def test_bad_calls() -> None:
    for call in ROW.bad_calls("cpu"):
        with pytest.raises(call.exception, match=re.escape(call.words)):
            ops.linear_packed(*call.sample.args, **call.sample.kwargs)
    x, panels = torch.ones(2, 3), ops.pack_weight(torch.ones(5, 3))
    for args, words in (((x, x[0]), "panels must be"), ((x, panels, x.new_ones(5).double()), "must have the same dty")):
        for device in ("cpu", "meta"):  # and what compiles
            with pytest.raises(RuntimeError, match=words):
                ops.linear_packed(*(a.to(device) for a in args), out_features=5, dtype=torch.float32)
    packed = myops.pack_weight(torch.randn(5, 3))
    with pytest.raises(RuntimeError, match="weight must be a matrix, got 1-D"):
        myops.pack_weight(torch.randn(5))
    with pytest.raises(NotImplementedError, match="not implemented for weight of dtype bool"):
        myops.pack_weight(torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(TypeError, match="weight must be a Tensor"):
        myops.pack_weight([1.0])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="out is not supported with a packed weight"):
        myops.linear(torch.randn(2, 3), packed, out=torch.empty(2, 5))
    with pytest.raises(RuntimeError, match="input and weight shapes cannot be multiplied"):
        myops.linear(torch.randn(2, 4), packed)
    with pytest.raises(RuntimeError, match="input and weight must have the same dtype"):
        myops.linear(torch.randn(2, 3).double(), packed)
    with pytest.raises(RuntimeError, match="at most 64 dimensions, but input has 100"):
        myops.linear(torch.ones([1] * 99 + [3]), packed)
    with pytest.raises(RuntimeError, match="panels hold a packed weight of shape"):
        myops.PackedWeight(packed.panels, (3, 5), torch.float32)
    for n, k in ((2**31, 2**31), (2**40, 2**22), (2**61, 2)):  # the bytes of the panels wrap in 64 bits
        with pytest.raises(RuntimeError, match=rf"not enough memory for the panels of a weight of shape \[{n}, {k}\]"):
            ops.pack_weight(torch.zeros(1, 1).expand(n, k))


HEADER = "=Qqqihhhhhhh"
FIELDS = ["magic", "n", "k", "kc", "dtype", "bytes", "lanes", "vectors", "group", "depth", "start"]
DAMAGE = [
    {"magic": 1},
    *({name: value} for name in ("n", "k") for value in (-8, 900, 2**31, 2**62, 2**63 - 1)),
    {"n": 2**62, "k": 2**62},
    {"n": 2**62, "k": 0},
    {"n": 0, "k": 2**62, "kc": 1},
    {"dtype": -1},
    {"dtype": 11},
    *({"bytes": value} for value in (0, -4, 3, 8)),
    *({name: value} for name in ("kc", "lanes", "vectors", "group", "depth") for value in (0, -1, -(2**15))),
    *({name: 2**15 - 1} for name in ("lanes", "group", "depth")),
    {"n": 2**40, "kc": 2**31 - 1, "lanes": 2**15 - 1, "group": 2**15 - 1, "depth": 2**15 - 1},
    {"start": -1},
    {"start": 2},
]


@pytest.mark.parametrize("damage", DAMAGE, ids=str)
def test_damaged_panels_are_refused(damage: dict[str, int]) -> None:
    panels = myops.pack_weight(torch.randn(8, 8)).panels
    header = dict(zip(FIELDS, struct.unpack_from(HEADER, panels.numpy().tobytes()), strict=True))
    assert (header["n"], header["k"]) == (8, 8)
    damaged = bytearray(struct.pack(HEADER, *(header | damage).values()))
    panels[: len(damaged)] = torch.frombuffer(damaged, dtype=torch.uint8)
    for call in (
        lambda: ops.unpack_weight(panels, 8, 8, dtype=torch.float32),
        lambda: ops.linear_packed(torch.ones(2, 8), panels, out_features=8, dtype=torch.float32),
    ):
        with pytest.raises(RuntimeError, match="panels do not hold a packed weight of this version of myops"):
            call()


def test_other_devices_are_refused() -> None:
    with pytest.raises(RuntimeError, match="weight must be on the CPU to be packed, but is on meta"):
        myops.pack_weight(torch.empty(2, 2, device="meta"))
    with pytest.raises(RuntimeError, match="weight is on cpu and input on meta"):
        myops.linear(torch.empty(4, 2, device="meta"), myops.pack_weight(torch.ones(2, 2)))


def test_fake_and_opcheck() -> None:
    for kind in (torch.float32, torch.bfloat16):
        for sample in list(ROW.samples("cpu", kind))[:5]:
            torch.library.opcheck(ops.linear_packed.default, sample.args, sample.kwargs)
        weight = tensor((70, 500), "cpu", kind)
        torch.library.opcheck(ops.pack_weight.default, (weight,))
        torch.library.opcheck(ops.unpack_weight.default, (ops.pack_weight(weight), 70, 500), {"dtype": kind})


def test_compiled() -> None:
    packed, bias = myops.pack_weight(torch.randn(30, 20)), torch.randn(30)

    def function(x: Tensor) -> Tensor:
        return myops.linear(x, packed, bias, "relu") - myops.linear(x, packed, None, "silu")

    compiled = torch.compile(function, fullgraph=True, dynamic=True)
    for m in (1, 4, 9):
        x = torch.randn(m, 20, requires_grad=True)
        torch.testing.assert_close(compiled(x), function(x))
        (grad,) = torch.autograd.grad(compiled(x).sum(), x)
        torch.testing.assert_close(grad, torch.autograd.grad(function(x).sum(), x)[0])


def test_autocast_follows_the_weight() -> None:
    x = torch.randn(4, 20)
    for kind in (torch.float32, torch.bfloat16):
        packed = myops.pack_weight(torch.randn(30, 20).to(kind))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = myops.linear(x, packed, torch.randn(30))
        assert got.dtype == kind


def test_vmap() -> None:
    packed, x, bias = myops.pack_weight(torch.randn(5, 3)), torch.randn(4, 2, 3), torch.randn(4, 5)
    got = torch.vmap(lambda x: myops.linear(x, packed))(x)
    torch.testing.assert_close(got, myops.linear(x, packed))
    got = torch.vmap(lambda x, b: myops.linear(x, packed, b))(x, bias)
    torch.testing.assert_close(got, myops.linear(x, packed) + bias[:, None])
    got = torch.vmap(lambda x, b: myops.linear(x, packed, b, "relu"))(x, bias)
    torch.testing.assert_close(got, (myops.linear(x, packed) + bias[:, None]).relu())
    with pytest.raises(RuntimeError, match="activation must be 0"):
        f = functools.partial(ops.linear_packed, out_features=5, dtype=torch.float32, activation=7)
        torch.vmap(lambda x, b: f(x, packed.panels, b))(x, bias)
    with pytest.raises(RuntimeError, match="panels cannot be batched"):
        torch.vmap(lambda p: ops.linear_packed(x, p, out_features=5, dtype=torch.float32))(packed.panels.expand(2, -1))


def test_flops() -> None:
    packed = myops.pack_weight(torch.randn(5, 3))
    with FlopCounterMode(display=False) as counter:
        myops.linear(torch.randn(4, 2, 3), packed)
    assert counter.get_total_flops() == 2 * 8 * 5 * 3


def test_module() -> None:
    linear = torch.nn.Linear(20, 30)
    layer = myops.nn.PackedLinear.from_linear(linear)
    x = torch.randn(4, 20)
    torch.testing.assert_close(layer(x), linear(x))
    torch.testing.assert_close(layer.packed.unpack(), linear.weight)
    assert set(layer.state_dict()) == {"panels", "bias"}
    for make in (copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))):
        assert torch.equal(make(layer)(x), layer(x))
    other = torch.nn.Linear(20, 30)
    layer.load_state_dict(other.state_dict())  # of an ordinary layer
    torch.testing.assert_close(layer(x), other(x))
    layer.load_state_dict(myops.nn.PackedLinear.from_linear(linear).state_dict())
    torch.testing.assert_close(layer(x), linear(x))
    with pytest.raises(RuntimeError, match="size mismatch for weight: copying a param with shape"):
        layer.load_state_dict(torch.nn.Linear(20, 31).state_dict())
    assert "PackedWeight(30 x 20, float32" in repr(layer.packed)
    activated = myops.nn.PackedLinear.from_linear(linear, "gelu")
    torch.testing.assert_close(activated(x), torch.nn.functional.gelu(linear(x)))
    assert "activation=gelu" in repr(activated)
    with pytest.raises(ValueError, match="activation must be one of"):
        myops.nn.PackedLinear.from_linear(linear, "tanh")


def test_nothing_is_kept() -> None:
    """A packed weight does not follow its weight, and two of the same weight share nothing."""
    weight = torch.randn(5, 3)
    first, second = myops.pack_weight(weight), myops.pack_weight(weight)
    x = torch.randn(2, 3)
    expected = myops.linear(x, first)
    weight.zero_()
    assert torch.equal(myops.linear(x, first), expected)
    second.panels.zero_()
    assert torch.equal(myops.linear(x, first), expected)


@pytest.mark.parametrize("level", OTHER_LEVELS)
def test_other_isa_levels(level: str) -> None:
    """The whole file again in a process that is forced to another level of this machine."""
    run_on_level(level, __file__)


def test_modules_on_meta_are_printed() -> None:
    module = myops.nn.PackedLinear(torch.randn(3, 4)).to("meta")
    assert "in_features=4, out_features=3, bias=False, dtype=float32" in repr(module)
    assert module(torch.randn(2, 4, device="meta")).shape == (2, 3)


def test_tangents_of_a_bias_alone() -> None:
    weight, bias, x = torch.randn(3, 4), torch.randn(3), torch.randn(2, 5, 4)
    packed = myops.pack_weight(weight)
    got = torch.func.jacfwd(lambda b: myops.linear(x, packed, b))(bias)
    assert torch.equal(got, torch.eye(3).expand(2, 5, 3, 3))
    assert not torch.func.hessian(lambda b: myops.linear(x, packed, b).sum())(bias).any()


def test_tangents_of_a_bias_are_tensors_of_their_own() -> None:
    packed = myops.pack_weight(torch.ones(4, 3))
    tangent = torch.ones(4)
    with forward_ad.dual_level(), torch.no_grad():
        dual = forward_ad.make_dual(torch.ones(4), tangent)
        got = myops.linear(torch.ones(3), packed, dual)
        got.mul_(3)
    assert torch.equal(tangent, torch.ones(4))


def test_a_packed_weight_takes_tensors() -> None:
    packed = myops.pack_weight(torch.ones(4, 3))
    with pytest.raises(TypeError, match="input must be a Tensor, but got list"):
        myops.linear([[1.0]], packed)


def test_fakes_want_panels_that_are_a_vector() -> None:
    packed = myops.pack_weight(torch.ones(4, 3))
    with pytest.raises(RuntimeError, match="panels must be a contiguous uint8 vector"):
        torch.ops.myops.linear_packed(
            torch.ones(2, 3, device="meta"), packed.panels.to("meta")[None], out_features=4, dtype=torch.float32
        )


def test_an_unknown_activation_of_a_packed_layer() -> None:
    with pytest.raises(ValueError, match="activation must be one of"):
        myops.nn.PackedLinear(torch.ones(4, 3), activation="tanh")


def test_a_packed_layer_takes_the_weight_of_another_dtype() -> None:
    layer = myops.nn.PackedLinear(torch.zeros(4, 3, dtype=torch.bfloat16))
    layer.load_state_dict({"weight": torch.ones(4, 3)})
    assert torch.equal(layer(torch.ones(2, 3, dtype=torch.bfloat16)), torch.full((2, 4), 3.0, dtype=torch.bfloat16))


def test_packed_weights_pickle_plain_sizes() -> None:
    packed = myops.pack_weight(torch.ones(4, 3))
    assert type(packed.__reduce__()[1][1]) is tuple
    assert pickle.loads(pickle.dumps(packed)).shape == packed.shape


def test_a_packed_layer_without_contents_is_copied() -> None:
    layer = myops.nn.PackedLinear(torch.ones(4, 3))
    layer.panels.zero_()
    assert copy.deepcopy(layer).panels.shape == layer.panels.shape


def test_recorded_packed_products_check_the_activation() -> None:
    packed = myops.pack_weight(torch.ones(4, 3))
    x = torch.ones(2, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match="activation must be 0"):
        torch.ops.myops.linear_packed(x, packed.panels, out_features=4, dtype=torch.float32, activation=5)
