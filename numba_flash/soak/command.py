"""`python -m numba_flash soak`: workers with different seeds, and a count of what they tried."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import random
import sys
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any
from unittest.mock import patch

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import numba_flash
from numba_flash.arrays import gpu_count
from numba_flash.ladder import FORWARD, LADDER, named
from numba_flash.soak.worker import GIB, Order, Turn, work_in_process

FAILED, UNUSABLE = 1, 2  # exit statuses
GRACE_SECONDS = 120.0  # for the last turns to end and for failing cases to shrink
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass
class Tally:
    """What the workers have reported."""

    tried: Counter[str] = field(default_factory=Counter)
    failures: list[Any] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)

    def add(self, turn: Turn) -> None:
        """Count one turn."""
        self.tried[turn.property] += turn.tried
        if turn.failure:
            self.failures.append(turn.failure)
        if turn.skipped:
            self.skipped[turn.property] = turn.skipped

    @property
    def examples(self) -> int:
        """Of all properties."""
        return sum(self.tried.values())

    @property
    def ok(self) -> bool:
        """Something was tried, and nothing failed or got lost."""
        return self.examples > 0 and not self.failures and not self.lost


def run_soak(options: Namespace, console: Console | None = None) -> int:
    """Run the command: 0 if every property held, 1 if not or if a worker was lost, 2 if the command cannot run."""
    console = console or Console(width=None if sys.stdout.isatty() else 140)
    folder, backend = properties_folder(options), options.backend or ("gpu" if gpu_count() else "cpu")
    if why := why_not(folder, backend, options.kernel):
        console.print(f"numba_flash soak: {why}", markup=False, highlight=False)
        return UNUSABLE
    workers = options.workers or os.cpu_count() or 1
    seed = random.randrange(2**20) if options.seed is None else options.seed
    console.print(f"{workers} workers on the {backend} for {options.seconds:.0f} s, seeds from {seed}", highlight=False)
    until = time.time() + options.seconds
    orders = [
        Order(seed + n, backend, folder, tuple(options.only), until, int(options.memory * GIB), options.kernel)
        for n in range(workers)
    ]
    tally, start = Tally(), time.time()
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=options.seconds)
        for turn in turns(orders, tally):
            tally.add(turn)
            text = f"{tally.examples} examples, {len(tally.failures)} failures"
            progress.update(task, completed=min(options.seconds, time.time() - start), description=text)
    print_report(tally, time.time() - start, console)
    if options.json:
        content = {"seed": seed, "backend": backend, "workers": workers, "seconds": options.seconds, **summary(tally)}
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    return 0 if tally.ok else FAILED


def properties_folder(options: Namespace) -> Path:
    """The package of properties: the one asked for, or the checkout's."""
    return (options.properties or Path(numba_flash.__file__).parents[1] / "tests" / "properties").resolve()


def why_not(folder: Path, backend: str, kernel: str) -> str:
    """Why the command cannot run; empty if it can."""
    missing = [name for name in ("hypothesis", "pytest") if find_spec(name) is None]
    if missing:
        return f"{' and '.join(missing)} missing: pip install 'numba_flash[test]'"
    if not list(folder.glob("test_*.py")):
        return f"no test modules in {folder}: run it in a checkout, or name a package with --properties"
    if kernel and len(named(FORWARD, kernel)) != 1:
        known = ", ".join(rung.name for rung in LADDER if rung.operation == FORWARD and rung.on_gpu)
        return f"no attention kernel {kernel!r} (there are {known})"
    if backend == "gpu" and gpu_count() == 0:
        return "needs an NVIDIA GPU that CuPy can use (--backend cpu needs none)"
    return ""


def environment(backend: str, workers: int) -> dict[str, str]:
    """What workers must find when they import numba and NumPy."""
    threads = math.ceil((os.cpu_count() or 1) / workers)
    simulated = "0" if backend == "gpu" else "1"
    return {"NUMBA_ENABLE_CUDASIM": simulated, "NUMBA_NUM_THREADS": str(threads), **dict.fromkeys(ONE_THREAD, "1")}


def start(orders: list[Order]) -> dict[Any, tuple[Order, Any]]:
    """A process for each order, by the pipe that it reports through."""
    spawn = multiprocessing.get_context("spawn")
    workers = {}
    with patch.dict(os.environ, environment(orders[0].backend, len(orders))):
        for order in orders:
            receive, send = spawn.Pipe(duplex=False)
            process = spawn.Process(target=work_in_process, args=(order, send), daemon=True)
            process.start()
            send.close()
            workers[receive] = order, process
    return workers


def turns(orders: list[Order], tally: Tally) -> Iterator[Turn]:
    """What the workers report until all have ended; those that did not end well are noted as lost."""
    workers = start(orders)
    last = max(order.until for order in orders) + GRACE_SECONDS
    while workers and time.time() < last:
        ready: list[Any] = wait(list(workers), timeout=1.0)
        for pipe in ready:
            try:
                yield pipe.recv()
            except EOFError:
                order, process = workers.pop(pipe)
                process.join()
                if process.exitcode:
                    tally.lost.append(f"the worker with seed {order.seed} ended with status {process.exitcode}")
    for order, process in workers.values():
        process.kill()
        tally.lost.append(f"the worker with seed {order.seed} hung and was ended")


def summary(tally: Tally) -> dict[str, Any]:
    """The counts as plain values."""
    return {
        "examples": tally.examples,
        "properties": dict(sorted(tally.tried.items())),
        "failures": [asdict(failure) for failure in tally.failures],
        "skipped": tally.skipped,
        "lost": tally.lost,
    }


def print_report(tally: Tally, seconds: float, console: Console) -> None:
    """Examples of each property, then failures with the code that shows them again."""
    table = Table("property", "examples", "")
    failed = {failure.property for failure in tally.failures}
    for name, count in sorted(tally.tried.items()):
        table.add_row(name, str(count), "[red]fails" if name in failed else tally.skipped.get(name, ""))
    console.print(table)
    for failure in tally.failures:
        flaky = " (not every time)" if failure.flaky else ""
        console.print(f"\n[red]{failure.property} does not hold{flaky}, seed {failure.seed}[/red]")
        console.print(f"{failure.error}\n\n{failure.reproduce}", markup=False, highlight=False, soft_wrap=True)
    if not tally.examples:
        console.print("[red]Nothing was tried: too little time, or no property that --only names")
    for line in tally.lost:
        console.print(f"[red]{line}")
    rate = tally.examples / seconds
    console.print(f"{tally.examples} examples in {seconds:.0f} s ({rate:.1f} a second), {len(tally.failures)} failures")
