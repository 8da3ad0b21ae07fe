"""What stands between a call and its kernel: numbers, out=, in-place forms, autocast, the words of errors."""

from __future__ import annotations

import warnings

import pytest
import torch

import myops

i64 = torch.int64


def test_a_large_integer_keeps_its_digits_beside_another_scalar() -> None:
    i, big = torch.ones(2, 2, dtype=torch.int64), 2**60 + 1
    assert torch.equal(myops.addmm(i, i, i, beta=big, alpha=2), torch.addmm(i, i, i, beta=big, alpha=2))


def test_an_out_for_sparse_operands_keeps_its_shape() -> None:
    out = torch.empty(1)
    with pytest.raises(NotImplementedError, match="takes strided tensors"):
        myops.mm(torch.eye(3).to_sparse_csr(), torch.ones(3, 3), out=out)
    assert out.shape == (1,)


def test_an_out_is_where_the_operand_with_dimensions_is() -> None:
    out = torch.empty(0, device="meta")
    assert myops.add(torch.tensor(1.0), torch.ones(3, device="meta"), out=out).shape == (3,)


def test_errors_with_out_have_torchs_types() -> None:
    b, sparse = torch.ones(2, 2).bool(), torch.ones(3, 4).to_sparse_csr()
    with pytest.raises(NotImplementedError, match="not implemented for"):
        myops.mm(b, b, out=b.clone())
    with pytest.raises(NotImplementedError, match="takes strided tensors"):
        myops.mm(sparse, torch.ones(2, 2), out=torch.empty(1))


def test_in_place_results_are_cast_only_where_torch_casts() -> None:
    for call in (
        lambda: myops.add_(torch.ones(2, dtype=torch.int32), torch.ones(2, requires_grad=True)),
        lambda: torch.vmap(lambda t: myops.add_(torch.ones_like(t, dtype=torch.int32), t))(torch.ones(3, 2)),
    ):
        with pytest.raises(RuntimeError, match="can't be cast to the desired output type"):
            call()


def test_errors_of_in_place_forms_name_them() -> None:
    a = torch.ones(2, 2)
    with pytest.raises(TypeError, match=r"^myops.addmm_: mat1 must be a Tensor"):
        myops.addmm_(a, 1, a)


def test_an_empty_out_is_resized_without_a_warning() -> None:
    a = torch.ones(2, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert myops.mm(a, a, out=torch.empty(0)).shape == (2, 2)
    with pytest.warns(UserWarning, match="was resized") as caught:
        myops.mm(a, a, out=torch.empty(3))
    assert caught[0].filename == __file__


def test_operators_refuse_an_out_that_requires_grad() -> None:
    a, out = torch.ones(2, 2), torch.zeros(2, 2, requires_grad=True)
    with pytest.raises(RuntimeError, match="one of the arguments requires grad"):
        torch.ops.myops.mm.out(a, a, out=out)
    assert not out.any()


def test_operators_do_not_write_inference_tensors_outside_of_inference_mode() -> None:
    with torch.inference_mode():
        target = torch.zeros(2, 2)
    x, ops = torch.ones(2, 2), torch.ops.myops
    for call in (lambda: ops.mm.out(x, x, out=target), lambda: ops.addmm_(target, x, x), lambda: ops.add_(target, x)):
        with pytest.raises(RuntimeError, match="Inplace update to inference tensor outside InferenceMode"):
            call()
        assert not target.any()


def test_autocast_leaves_other_devices_alone() -> None:
    x = torch.ones(2, 2, device="meta")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert myops.mm(x, x).dtype == torch.mm(x, x).dtype == torch.float32


def test_no_graph_no_preactivation() -> None:
    x, w = torch.ones(2, 3), torch.ones(4, 3, requires_grad=True)
    with torch.profiler.profile() as profile, torch.no_grad():
        myops.linear(x, w, activation="gelu")
        torch.ops.myops.linear(x, w, activation=2)
    assert {e.name for e in profile.events() if e.name.startswith("myops::")} == {"myops::linear"}


@pytest.mark.parametrize(
    "layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc]
)
def test_errors_of_every_sparse_layout_say_where_to_go(layout: torch.layout) -> None:
    blocks = {"blocksize": (1, 1)} if layout in (torch.sparse_bsr, torch.sparse_bsc) else {}
    with pytest.raises(NotImplementedError, match="see myops.sparse.mm for sparse operands"):
        myops.mm(torch.eye(2).to_sparse(layout=layout, **blocks), torch.ones(2, 2))


def test_errors_of_schemas_are_one_line() -> None:
    a = torch.ones(2, 2)
    with pytest.raises(TypeError) as raised:
        myops.addmm(a, a, a, alpha="2")
    assert "\n" not in str(raised.value)


def test_complex_scalars_without_an_imaginary_part_are_real() -> None:
    a = torch.ones(2, 2)
    assert torch.equal(myops.addmm(a, a, a, alpha=complex(2, 0)), torch.addmm(a, a, a, alpha=2))


def test_numbers_beyond_a_float_are_true() -> None:
    a = torch.tensor([True, False])
    assert torch.equal(myops.add(a, a, alpha=2**60), torch.tensor([True, False]))


def test_large_integers_scale_complex_matrices() -> None:
    c = torch.ones(2, 2, dtype=torch.complex128)
    got = myops.addmm(c, c, c, alpha=2**60 + 1)
    torch.testing.assert_close(got, torch.addmm(c, c, c, alpha=2**60 + 1))
    with torch.profiler.profile() as profile:
        myops.addmm(c, c, c, alpha=2**60 + 1)
    assert "aten::mul" not in {e.name for e in profile.events()}


def test_an_in_place_result_with_a_folded_scalar_is_cast_as_torch_casts() -> None:
    with pytest.raises(RuntimeError, match="cannot broadcast its input"):
        myops.addmm_(torch.ones(1, 2, dtype=i64), torch.ones(2, 2, dtype=i64), torch.ones(2, 2, dtype=i64), beta=2**60)


def test_the_negative_of_what_an_unsigned_dtype_holds() -> None:
    u = torch.ones(2, 2, dtype=torch.uint8)
    assert torch.equal(torch.ops.myops.addmm.Scalar(u, u, u, alpha=-255), torch.addmm(u, u, u, alpha=-255))
