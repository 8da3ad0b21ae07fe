"""Where myops has no kernel: decompositions to aten on other devices and in exported programs; NumPy without copies."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import DEVICES
from torch import Tensor, nn

import myops
from myops.registration import COMPONENTS, OPERATORS, Operator, Sample

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = ("XPU", "MPS", "XLA", "PrivateUse1")


def elsewhere(name: str, *args: Any, **kwargs: Any) -> Any:
    """The operator as a device without kernels of ours has it. Its decomposition runs on whatever the tensors are on."""
    kernels = [torch.library.get_kernel(f"myops::{name}", key) for key in ELSEWHERE]
    keyset = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
    results = [kernel.call_boxed(keyset, *args, **kwargs) for kernel in kernels]
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=0, equal_nan=True)
    return results[0]


def scalars_as_floats(sample: Sample) -> dict[str, Any]:
    return {name: value if name == "activation" else float(value) for name, value in sample.kwargs.items()}


def test_every_operator_runs_everywhere(row: Operator, dtype: torch.dtype) -> None:
    for sample in row.samples("cpu", dtype):
        if any(isinstance(a, Tensor) and (a.is_conj() or a.is_neg()) for a in sample.args):
            continue  # other keys resolve these before a kernel is reached
        kwargs = scalars_as_floats(sample)
        expected, got = row.op(*sample.args, **kwargs), elsewhere(row.name, *sample.args, **kwargs)
        assert (got.shape, got.dtype) == (expected.shape, expected.dtype), sample.name
        # torch may round a 16-bit product before the bias.
        loose = {"rtol": 0.03, "atol": 0.03} if dtype in (torch.bfloat16, torch.float16) else {}
        torch.testing.assert_close(got, expected, **loose, msg=lambda m, sample=sample: f"{sample.name}: {m}")


def test_forms_that_write(row: Operator) -> None:
    for sample in list(row.samples("cpu", torch.float32))[:6]:
        kwargs = scalars_as_floats(sample)
        expected = row.op(*sample.args, **kwargs)
        out = torch.full_like(expected, float("nan"))
        kernel = torch.library.get_kernel(f"myops::{row.name}.out", "XPU")
        keyset = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
        kernel.call_boxed(keyset, *sample.args, **kwargs, out=out)
        torch.testing.assert_close(out, expected)
        with pytest.raises(RuntimeError, match="Expected out to have shape"):
            kernel.call_boxed(keyset, *sample.args, **kwargs, out=torch.empty(9, 9, 9, 9))
        if row.in_place:
            target = sample.args[0].expand(expected.shape).clone()
            torch.library.get_kernel(f"myops::{row.name}_", "XPU").call_boxed(
                keyset, target, *sample.args[1:], **kwargs
            )
            torch.testing.assert_close(target, expected)


def test_scalars_keep_their_rules_elsewhere() -> None:
    """beta == 0 does not read input, alpha == 0 does not read the matrices."""
    nan, ones = torch.full((2, 2), float("nan")), torch.ones(2, 2)
    assert torch.equal(elsewhere("addmm", nan, ones, ones, beta=0.0), 2 * ones)
    assert torch.equal(elsewhere("addmm", ones, nan, nan, alpha=0.0, beta=3.0), 3 * ones)
    assert torch.equal(elsewhere("addmm", nan, nan, nan, alpha=0.0, beta=0.0), 0 * ones)
    assert torch.equal(elsewhere("baddbmm", ones, nan[None], nan[None], alpha=0.0), ones[None])


def test_sparse_layouts_are_still_refused() -> None:
    with pytest.raises(NotImplementedError, match="input has layout torch.sparse_coo"):
        torch.ops.myops.mm(torch.eye(2).to_sparse(), torch.ones(2, 2))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 5)

    def forward(self, x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        hidden = myops.linear(x, self.layer.weight, self.layer.bias)
        product = myops.addmm(hidden, x, w, beta=0.5, alpha=2)
        batch = torch.stack([product, hidden])
        mixed = myops.baddbmm(batch, batch, myops.bmm(batch.mT, batch), alpha=0.1)
        return myops.matmul(mixed, w.mT), myops.add(myops.mm(x, w), hidden, alpha=3)


def test_exported_program_without_myops() -> None:
    """What an exporter sees is aten alone; it is saved, loaded, and right at other sizes."""
    model, rows = Net().double(), torch.export.Dim("rows", min=2, max=64)
    args = torch.randn(5, 6).double(), torch.randn(6, 5).double()
    program = torch.export.export(model, args, dynamic_shapes={"x": {0: rows}, "w": None})
    assert any("myops" in str(node.target) for node in program.graph.nodes)
    table = torch.export.default_decompositions()
    table.update(myops.decompositions())
    plain = program.run_decompositions(table)
    assert not [str(node.target) for node in plain.graph.nodes if "myops" in str(node.target)]
    buffer = io.BytesIO()
    torch.export.save(plain, buffer)
    buffer.seek(0)
    loaded = torch.export.load(buffer)
    for n in (5, 2, 31):
        x = torch.randn(n, 6).double()
        torch.testing.assert_close(loaded.module()(x, args[1]), model(x, args[1]))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_onnx(tmp_path: Path) -> None:
    """By its decompositions a model goes to ONNX without a translation of ours, and is right there at other sizes."""
    pytest.importorskip("onnxscript", reason="torch.onnx writes with it")
    onnxruntime = pytest.importorskip("onnxruntime", reason="runs the model")
    model, rows = Net().eval(), torch.export.Dim("rows", min=2, max=64)
    args = torch.randn(5, 6), torch.randn(6, 5)
    program = torch.export.export(model, args, dynamic_shapes={"x": {0: rows}, "w": None})
    assert any("myops" in str(node.target) for node in program.graph.nodes)
    plain = program.run_decompositions({**torch.export.default_decompositions(), **myops.decompositions()})
    file = tmp_path / "model.onnx"
    torch.onnx.export(plain, dynamo=True, verbose=False).save(file)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    for n in (5, 2, 31):
        x = torch.randn(n, 6)
        got = session.run(None, dict(zip(names, (x.numpy(), args[1].numpy()), strict=True)))
        for mine, expected in zip(got, model(x, args[1]), strict=True):
            torch.testing.assert_close(torch.from_numpy(mine), expected)


def test_every_row_has_a_decomposition() -> None:
    recorded = {row.op for name, row in COMPONENTS.items() if name.endswith("_with_preactivation")}
    assert set(myops.decompositions()) == {row.op for row in OPERATORS.values()} | recorded


def test_numpy_shares_memory() -> None:
    """In and out by DLPack: what torch offers for its own operators holds for ours."""
    numpy = pytest.importorskip("numpy")
    a = numpy.arange(6.0).reshape(2, 3)
    b = numpy.arange(12.0).reshape(4, 3).T[:, ::2]  # strides that are not contiguous
    x, y = torch.from_dlpack(a), torch.from_numpy(b)
    assert x.data_ptr() == a.ctypes.data
    assert y.data_ptr() == b.ctypes.data
    numpy.testing.assert_array_equal(numpy.from_dlpack(myops.mm(x, y)), a @ b)
    target = numpy.full((4, 2), numpy.nan)
    myops.mm(x, y, out=torch.from_numpy(target)[1:3])
    numpy.testing.assert_array_equal(target[1:3], a @ b)
    assert numpy.isnan(target[[0, 3]]).all()
    result = myops.add(x, x)
    view = numpy.from_dlpack(result)
    myops.add_(result, x)
    numpy.testing.assert_array_equal(view, 3 * a)


@pytest.mark.skipif("cuda" not in DEVICES, reason="needs a GPU")
def test_cupy_shares_memory() -> None:
    cupy = pytest.importorskip("cupy", reason="reads what myops wrote")
    x = torch.randn(3, 4, device="cuda")
    result = myops.mm(x, x.mT)
    view = cupy.from_dlpack(result)
    assert view.data.ptr == result.data_ptr()
    cupy.testing.assert_allclose(view, cupy.from_dlpack(x) @ cupy.from_dlpack(x).T, rtol=1e-5, atol=1e-5)


# Names of CUDA. What torch calls cuda on ROCm too (is_cuda, the stream of a device, the dispatch key) is not among them.
CUDA_NAMES = re.compile(r"\b(cuda[A-Z]\w*|__nv_\w+|nv_bfloat\w+|cublas\w+|curand\w+)|<(cuda|nv|cu)[\w/]*\.h>|\basm\b")


def test_cuda_sources_hipify(tmp_path: Path) -> None:
    """torch.utils.hipify leaves no name of CUDA in code; what has no translation has to stand in a guarded block."""
    if not (ROOT / "kernels").is_dir():
        pytest.skip("the package is installed: its sources are not here")
    hipify = pytest.importorskip("torch.utils.hipify.hipify_python")
    done = hipify.hipify(
        project_directory=str(ROOT / "kernels"), output_directory=str(tmp_path / "kernels"),
        includes=["*"], extensions=(".cu", ".cuh", ".h", ".cpp"), is_pytorch_extension=True,
    )  # fmt: skip
    assert done
    left, translated = [], 0
    for source in sorted((tmp_path / "kernels").rglob("*")):
        if not source.is_file() or "cpu" in source.parts or "hip" not in source.relative_to(tmp_path).as_posix():
            continue
        guarded, translated = 0, translated + 1
        for number, line in enumerate(source.read_text().splitlines(), 1):
            code = line.partition("//")[0]
            if code.lstrip().startswith("#if"):
                guarded += "USE_ROCM" in code or guarded > 0
            elif code.lstrip().startswith("#endif"):
                guarded = max(0, guarded - 1)
            elif not guarded and CUDA_NAMES.search(code):
                left.append(f"{source.name}:{number}: {line.strip()}")
    assert translated > 10
    assert not left, "\n".join(left)
