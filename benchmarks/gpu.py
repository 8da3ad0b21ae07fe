"""Everything there is to learn from one visit to a GPU.

    python benchmarks/gpu.py --out gpu.jsonl             # all phases but tuning, within --budget seconds
    python benchmarks/gpu.py --phases timing --families float
    python benchmarks/gpu.py --phases tuning             # every kernel where several could run: for plan.h and native.h
    python benchmarks/gpu.py --dry-run                   # the same cases on the CPU at tiny shapes; tests this script

Each phase of each kernel family runs in a process of its own, because an illegal access ends a CUDA context. A process
writes one JSON line per case; the driver copies it to --out at once, so a stopped run keeps its results. A case that
breaks the context or gives no answer is recorded, and the rest of the family goes on in a fresh process. The last thing
printed is a table. Exit status: 0 all passed, 1 something failed, 2 no GPU.

Phases, in order: smoke (the library loads and dispatches), kernels (every kernel by name against float64, before any is
timed), correctness (the operators), graphs (CUDA graphs, streams), timing (against torch, every class of shapes; each
case checks its result first), memory, sanitizer (compute-sanitizer, where it is installed), tuning.
Cases are in gpu_cases.py, gpu_kernels.py and gpu_timing.py, those of the sparse family in gpu_sparse.py.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

FAMILIES = ["float", "complex", "integer", "add", "sparse"]
KERNELS = ["tile", "skinny", "tiny", "mma", "wgmma", "limb"]
CLASSES = ["square", "epilogue", "tf32", "odd", "decode", "batch", "integer", "rest", "sparse", "real"]
TOOLS = ["memcheck", "synccheck", "racecheck"]
# Seconds at most, and what runs in processes of its own.
PHASES = {
    "smoke": (40, ["all"]),
    "kernels": (110, KERNELS),
    "correctness": (100, FAMILIES),
    "graphs": (30, FAMILIES),
    "timing": (220, CLASSES),
    "memory": (30, ["float", "integer", "add", "sparse"]),
    "sanitizer": (120, TOOLS),
    "tuning": (300, ["all"]),
}
DEFAULT_PHASES = [phase for phase in PHASES if phase != "tuning"]
CASE_SECONDS = 60  # no answer for so long: the case hangs
BROKEN_CONTEXT = 3  # the exit status of a worker whose CUDA context is lost

Record = dict[str, Any]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="append JSON lines to this file")
    parser.add_argument("--phases", nargs="+", choices=list(PHASES), default=DEFAULT_PHASES)
    parser.add_argument("--families", nargs="+", help="of the phases: float, tile, square, memcheck ... (default: all)")
    parser.add_argument("--budget", type=float, default=560, help="seconds for everything (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=0.25, help="a timed case measures so long (default: %(default)s)"
    )
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, at tiny shapes")
    parser.add_argument("--worker", nargs=2, metavar=("PHASE", "FAMILY"), help=argparse.SUPPRESS)
    parser.add_argument("--skip", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


# ---- The worker: one phase of one family -----------------------------------------------------------------------------


def machine_state() -> Record:
    """Clock, power and temperature, to explain a slow run; empty where nvidia-smi says nothing."""
    query = "clocks.sm,clocks.mem,power.draw,temperature.gpu"
    try:
        line = subprocess.run(
            ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"], capture_output=True, text=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return {"machine": line.splitlines()[0]} if line else {}


def work(phase: str, family: str, skip: int, dry: bool, seconds: float = 1.0) -> int:
    import torch

    from benchmarks import gpu_cases, gpu_kernels, gpu_sparse, gpu_timing

    make = {
        "smoke": gpu_cases.smoke_cases,
        "kernels": gpu_kernels.kernel_cases,
        "correctness": gpu_cases.correctness_cases,
        "graphs": gpu_cases.graph_cases,
        "timing": gpu_timing.timing_cases,
        "memory": gpu_timing.memory_cases,
        "sanitizer": gpu_kernels.sanitizer_cases,
        "tuning": gpu_kernels.tuning_cases,
    }
    if family in ("sparse", "real"):
        make |= gpu_sparse.PHASES
    os.environ["MYOPS_CUDA_GEMM"] = "own"  # what is to be looked at; timing asks for `auto` besides
    if dry:
        torch.set_num_threads(1)
    device = gpu_cases.Device("cpu" if dry else "cuda", dry, seconds)
    for index, (name, case) in enumerate(make[phase](family)):
        if index < skip:
            continue
        record: Record = {"phase": phase, "family": family, "index": index, "case": name}
        print(json.dumps({**record, "status": "started"}), flush=True)
        start = time.perf_counter()
        try:
            measured = case(device)
            device.synchronize()
            record |= {"status": "ok", **measured}
        except AssertionError as error:
            record |= {"status": "wrong", "message": str(error)}
        except Exception as error:  # every failure is a result
            record |= {"status": "error", "message": f"{type(error).__name__}: {error}"[:2000]}
        record["seconds"] = round(time.perf_counter() - start, 3)
        if phase == "timing" and not dry:
            record |= machine_state()
        print(json.dumps(record), flush=True)
        if record["status"] == "error" and not dry and context_is_lost():
            return BROKEN_CONTEXT
        if not dry:
            torch.cuda.empty_cache()
    return 0


def context_is_lost() -> bool:
    import torch

    try:
        torch.ones(1, device="cuda").add(1).item()
        torch.cuda.synchronize()
    except Exception:
        return True
    return False


# ---- The driver ------------------------------------------------------------------------------------------------------


class Results:
    """Collects records, and writes each to --out as it comes."""

    def __init__(self, out: Path | None) -> None:
        self.records: list[Record] = []
        self.file: IO[str] | None = out.open("a") if out else None

    def add(self, record: Record) -> None:
        self.records.append(record)
        if self.file:
            self.file.write(json.dumps(record) + "\n")
            self.file.flush()
        detail = record.get("message") or ", ".join(
            f"{k} {v:.4g}" for k, v in record.items() if isinstance(v, float) and k != "seconds"
        )
        print(f"{record['status']:8}{record['phase']:12}{record['case']:40}{detail}", flush=True)


def find_sanitizer() -> str | None:
    return shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")


def sanitizer_command(tool: str) -> list[str]:
    # nvjet: cuBLAS's own kernels, which some versions of the tools report falsely.
    found = find_sanitizer()
    assert found is not None
    return [found, "--tool", tool, "--error-exitcode", "9", "--kernel-name-exclude", "kns=nvjet"]


def run_worker(
    phase: str, family: str, skip: int, dry: bool, seconds: float, deadline: float, results: Results
) -> int | None:
    """Runs one worker to its end or the deadline. Returns the case to resume from, None where nothing is left to do."""
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", phase, family]
    command += ["--skip", str(skip), "--seconds", str(seconds)]
    environment = dict(os.environ)
    if phase == "sanitizer" and not dry:
        command = [*sanitizer_command(family), *command]
        if family == "memcheck":  # in torch's segments the byte after a tensor is another's, and no error
            environment |= {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "CUDA_LAUNCH_BLOCKING": "1"}
    process = subprocess.Popen(
        command + (["--dry-run"] if dry else []),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,  # a tool has the worker for its child
    )
    assert process.stdout is not None
    assert process.stderr is not None
    lines: queue.Queue[str | None] = queue.Queue()
    errors: list[str] = []

    def read(stream: IO[str]) -> None:
        for line in stream:
            lines.put(line)
        lines.put(None)

    threads = [
        threading.Thread(target=read, args=(process.stdout,), daemon=True),
        threading.Thread(target=lambda stream: errors.extend(stream), args=(process.stderr,), daemon=True),
    ]
    for thread in threads:
        thread.start()
    current: Record = {"phase": phase, "family": family, "index": skip - 1, "case": "(start of the process)"}
    answered = True
    said: list[str] = []  # what is no record: a tool's report
    while True:
        left = deadline - time.monotonic()
        try:
            line = lines.get(timeout=max(0.0, min(left, CASE_SECONDS)))
        except queue.Empty:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if left <= CASE_SECONDS:
                results.add({**current, "status": "stopped", "message": "the time of the phase is over"})
                return None
            results.add({**current, "status": "hung", "message": f"no answer for {CASE_SECONDS} s"})
            return current["index"] + 1
        if line is None:
            break
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            print(line, end="")
            said.append(line)
            continue
        answered = record["status"] != "started"
        current = {k: record[k] for k in ("phase", "family", "index", "case")}
        if answered:
            results.add(record)
    status = process.wait()
    threads[1].join(timeout=5)
    if status == 0:
        return None
    if phase == "sanitizer" and answered:
        results.add({**current, "status": "wrong", "message": "".join(said)[-2000:]})
        return None
    if not answered or current["index"] < skip:
        tail = "".join(errors)[-2000:]
        results.add({**current, "status": "crashed", "message": f"exit status {status}: {tail}"})
        if current["index"] < skip:  # not even one case began: the next process would end the same way
            return None
    return current["index"] + 1


def table(records: list[Record]) -> str:
    lines = ["", f"{'phase':14}{'ok':>6}{'other':>7}"]
    for phase in PHASES:
        mine = [r for r in records if r["phase"] == phase]
        if mine:
            ok = sum(r["status"] == "ok" for r in mine)
            lines.append(f"{phase:14}{ok:6}{len(mine) - ok:7}")
    timings = [r for r in records if r["phase"] == "timing" and r["status"] == "ok"]
    if timings:
        lines += [
            "", f"{'case':44}{'ours us':>11}{'native us':>11}{'speedup':>9}{'auto':>8}{'TFLOP/s':>9}{'GB/s':>8}",
        ]  # fmt: skip
        lines += [
            f"{r['case']:44}{r['ours_us']:11.1f}{r['native_us']:11.1f}{r['speedup']:9.2f}{r['auto_speedup']:8.2f}"
            f"{r['ours_tflops']:9.2f}{r['ours_gbps']:8.0f}"
            for r in timings
        ]
    memories = [r for r in records if r["phase"] == "memory" and r["status"] == "ok"]
    if memories:
        lines += ["", f"{'case':44}{'ours MiB':>11}{'native MiB':>11}{'result MiB':>11}"]
        lines += [
            f"{r['case']:44}{r['ours_mib']:11.1f}{r['native_mib']:11.1f}{r['result_mib']:11.1f}" for r in memories
        ]
    tunings = [r for r in records if r["phase"] == "tuning" and r["status"] == "ok"]
    for r in tunings:
        times = ", ".join(f"{k.removesuffix(' us')} {v:.1f}" for k, v in r.items() if k.endswith(" us"))
        lines.append(f"{r['case']:44} us: {times}")
    bad = [r for r in records if r["status"] not in ("ok", "skipped")]
    if bad:
        lines += ["", "not ok:"]
        lines += [f"  {r['status']:8} {r['phase']} {r['family']} {r['case']}: {r.get('message', '')}" for r in bad]
    return "\n".join(lines)


def no_gpu() -> str | None:
    """Why nothing can run here, or None."""
    try:
        import torch
    except ImportError as error:
        return f"torch cannot be imported: {error}"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    return None


def main() -> int:
    options = parse()
    if options.worker:
        phase, family = options.worker
        return work(phase, family, options.skip, options.dry_run, options.seconds)
    if not options.dry_run:
        reason = no_gpu()
        if reason:
            print(f"benchmarks/gpu.py needs a GPU: {reason}. With --dry-run the same cases run on the CPU.")
            return 2
    results = Results(options.out)
    end = time.monotonic() + options.budget
    for phase in options.phases:
        seconds, families = PHASES[phase]
        if phase == "sanitizer" and not options.dry_run and find_sanitizer() is None:
            record = {"phase": phase, "family": "all", "index": 0, "case": "compute-sanitizer"}
            results.add({**record, "status": "skipped", "message": "not installed"})
            continue
        if phase != "smoke" and options.families:
            families = [family for family in families if family in options.families]
        phase_end = min(end, time.monotonic() + seconds)
        for i, family in enumerate(families):
            # A family may use what the earlier ones left over, and leaves the later ones their share.
            left = phase_end - time.monotonic()
            deadline = time.monotonic() + left * (1.0 if i + 1 == len(families) else max(0.4, 1 / (len(families) - i)))
            skip: int | None = 0
            while skip is not None and time.monotonic() < deadline:
                skip = run_worker(phase, family, skip, options.dry_run, options.seconds, deadline, results)
        failed = any(r["phase"] == "smoke" and r["status"] != "ok" for r in results.records)
        if phase == "smoke" and failed:
            break  # nothing else can work
    print(table(results.records))
    return 0 if results.records and all(r["status"] in ("ok", "skipped") for r in results.records) else 1


if __name__ == "__main__":
    sys.exit(main())
