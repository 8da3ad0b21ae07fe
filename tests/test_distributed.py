"""Two processes: DistributedDataParallel, whose hooks see the gradients of myops as torch's own, DTensor and FSDP2."""

from __future__ import annotations

import faulthandler
import itertools
import os
import time
import traceback
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import myops
from myops.activation import GELU, RELU, SILU

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="torch is built without gloo"
)

WORLD, DEADLINE_S = 2, 600


class Net(nn.Module):
    """Two layers: through myops' functions (`direct`) or torch's."""

    def __init__(self, direct: bool) -> None:
        super().__init__()
        self.direct = direct
        self.first = nn.Linear(12, 16)
        self.weight = nn.Parameter(torch.randn(16, 5) / 4)
        self.bias = nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        linear, addmm = (myops.linear, myops.addmm) if self.direct else (nn.functional.linear, torch.addmm)
        hidden = linear(x, self.first.weight, self.first.bias).tanh()
        return addmm(self.bias, hidden, self.weight, beta=0.5, alpha=2)


def make(direct: bool) -> tuple[Net, Tensor]:
    torch.manual_seed(3)
    return Net(direct), torch.randn(WORLD * 6, 12)


def loss(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).square().mean()


def worker(rank: int, port: int, way: str, folder: str) -> None:
    # Threads of gloo may outlive the group. One that wants the GIL while the interpreter is being taken down aborts the
    # process ("terminate called without an active exception"), after the work or instead of its error: no worker leaves
    # through the interpreter. An abort within the work says where, in the same file.
    with open(f"{folder}/{rank}.txt", "w") as words:
        faulthandler.enable(words)
        status = 0
        try:
            work(rank, port, way, folder)
        except BaseException:
            traceback.print_exc(file=words)
            status = 1
    os._exit(status)


def work(rank: int, port: int, way: str, folder: str) -> None:
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=WORLD)
    if way in OTHERS:
        OTHERS[way](rank, folder)
        dist.barrier()
        dist.destroy_process_group()
        return
    net, x = make(direct=way == "direct")
    # A bucket smaller than the model, so that gradients are reduced while the backward is running.
    model = DistributedDataParallel(net, bucket_cap_mb=0.0005)
    share = x[rank * 6 : (rank + 1) * 6]
    if way == "switch":
        with myops.use():
            loss(model, share).backward()
        counts = myops.stats()
        assert counts["addmm"]["myops"] == 2, counts
        assert counts["mm"]["myops"] >= 3, counts
    else:
        loss(model, share).backward()
    torch.save({name: p.grad for name, p in net.named_parameters()}, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


OPERANDS = {
    "add": [(4, 6), (6,)],
    "mm": [(4, 6), (6, 8)],
    "addmm": [(8,), (4, 6), (6, 8)],
    "bmm": [(2, 4, 6), (2, 6, 8)],
    "baddbmm": [(4, 8), (2, 4, 6), (2, 6, 8)],
    "linear": [(2, 4, 6), (8, 6), (8,)],
    "matmul": [(2, 4, 6), (2, 6, 8)],
}


def sharded(rank: int, folder: str) -> None:
    """Every operator with every placement of its operands: the right result, and gradients on the mesh."""
    from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor, init_device_mesh

    myops.dtensor.register()
    mesh, kept = init_device_mesh("cpu", (WORLD,)), set()
    activated = [(name, activation) for name in ("addmm", "baddbmm", "linear") for activation in (RELU, GELU, SILU)]
    for name, activation in [*((name, 0) for name in OPERANDS), *activated]:
        shapes, scalars = OPERANDS[name], {"beta": 0.5, "alpha": 2.0} if "addmm" in name or "addbmm" in name else {}
        if name == "add":
            scalars = {"alpha": 2.0}
        if activation:
            scalars["activation"] = activation
        torch.manual_seed(7)
        plain = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
        expected = getattr(myops, name)(*plain, **scalars)
        grads = torch.autograd.grad(expected.square().sum(), plain)
        placements = [[Replicate(), *(Shard(i) for i in range(len(shape)))] for shape in shapes]
        for chosen in itertools.product(*placements):
            args = [
                distribute_tensor(t.detach(), mesh, [p]).requires_grad_() for t, p in zip(plain, chosen, strict=True)
            ]
            result = getattr(torch.ops.myops, name)(*args, **scalars)
            assert isinstance(result, DTensor)
            kept.add((name, activation, result.placements[0]))
            torch.testing.assert_close(result.full_tensor(), expected, msg=f"{name} {chosen}")
            if name == "linear" and chosen[0] == Shard(1) and torch.__version__ < "2.12":
                continue  # that DTensor cannot flatten a dimension that is sharded, with torch's own linear either
            found = torch.autograd.grad(result.square().sum(), args)
            for got, reference in zip(found, grads, strict=True):
                torch.testing.assert_close(got.full_tensor(), reference, msg=f"{name} {chosen}")
    # Rows, columns, batch and depth stay spread: nothing was gathered to compute them.
    assert {str(p) for name, _, p in kept if name == "mm"} == {"R", "S(0)", "S(1)", "P(sum)"}, kept
    assert {"S(0)", "S(1)", "S(2)", "P(sum)"} <= {str(p) for name, _, p in kept if name == "bmm"}, kept
    assert {str(p) for name, f, p in kept if name == "addmm" and f} == {"R", "S(0)", "S(1)"}, kept


def fully_sharded(rank: int, folder: str) -> None:
    """An optimiser step of FSDP2 on a model whose layers are myops', with tied hooks of FSDP's own class."""
    from torch.distributed.fsdp import fully_shard

    net, x = swapped()
    for layer in (*net, net):
        fully_shard(layer)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with torch.profiler.profile() as profiler:
        loss(net, x[rank * 6 : (rank + 1) * 6]).backward()
    assert "myops::linear" in {event.name for event in profiler.events()}
    optimizer.step()
    torch.save({name: p.full_tensor() for name, p in net.state_dict().items()}, f"{folder}/{rank}.pt")


def swapped() -> tuple[nn.Sequential, Tensor]:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(12, 16), nn.Linear(16, 4, bias=False))
    myops.nn.swap_(net)
    return net, torch.randn(WORLD * 6, 12)


OTHERS = {"sharded": sharded, "fully_sharded": fully_sharded}


def spawn(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run `work` in two processes, and raise what they raised."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    if Path("/sys/class/net/lo").exists():
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    # The store is made here, at a port that the system picks, so that no other process can take it in between.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context = mp.spawn(worker, (store.port, way, str(tmp_path)), nprocs=WORLD, join=False)
    deadline = time.monotonic() + DEADLINE_S
    try:
        while not context.join(timeout=1):
            assert time.monotonic() < deadline, f"the workers did not end in {DEADLINE_S} s"
    except mp.ProcessExitedException as error:
        words = "".join(path.read_text() for path in sorted(tmp_path.glob("*.txt")))
        raise AssertionError(f"{error}\n{words}") from None
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()


@pytest.mark.parametrize("way", ["direct", "switch"])
def test_ddp_gradients_equal_one_process(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spawn(way, tmp_path, monkeypatch)
    net, x = make(direct=False)
    loss(net, x).backward()
    for rank in range(WORLD):
        grads = torch.load(tmp_path / f"{rank}.pt")
        assert set(grads) == {name for name, _ in net.named_parameters()}
        for name, parameter in net.named_parameters():
            torch.testing.assert_close(grads[name], parameter.grad, rtol=1e-6, atol=1e-6, msg=f"rank {rank}, {name}")


def test_sharding_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spawn("sharded", tmp_path, monkeypatch)


def test_fsdp_step_equals_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spawn("fully_sharded", tmp_path, monkeypatch)
    net, x = swapped()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    loss(net, x).backward()
    optimizer.step()
    for rank in range(WORLD):
        weights = torch.load(tmp_path / f"{rank}.pt")
        for name, parameter in net.state_dict().items():
            torch.testing.assert_close(weights[name], parameter, rtol=1e-6, atol=1e-6, msg=f"rank {rank}, {name}")


def test_what_a_mesh_cannot_divide_is_not_partial() -> None:
    """An addend of a partial sum is divided by the size of the mesh: not an integer, nor a number beside a tensor."""

    def partial(dtype: torch.dtype, *shapes: tuple[int, ...]) -> bool:
        specs = (SimpleNamespace(shape=shape, tensor_meta=SimpleNamespace(dtype=dtype)) for shape in shapes)
        return any(result[0].is_partial() for result, _ in myops.dtensor.RULES["add"](*specs))

    assert partial(torch.float32, (4, 6), (6,))
    assert not partial(torch.int64, (4, 6), (6,))
    assert not partial(torch.float32, (4, 6), ())
