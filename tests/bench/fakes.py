"""Contests, clocks and machines that need no GPU."""

import numpy as np

from numba_flash.bench.cells import Cell
from numba_flash.bench.checks import check
from numba_flash.bench.cold import ColdRow
from numba_flash.bench.host import BOTH, ONE, HostRow
from numba_flash.bench.measure import Contest, ceiling_row, measure
from numba_flash.ladder import FORWARD

CELL = Cell(FORWARD, "float32", N=2048, d=64, causal=False)
REF = np.linspace(-1, 1, 100).reshape(4, 25)
RIGHT = REF.astype(np.float32)
TIMES = {"flash2_forward": 2.0, "slow": 8.0, "quick": 1.0}
MACHINE = {
    "gpu": "NVIDIA Fake 1", "driver": "1.2", "clocks": "SM 1 MHz of 2 MHz, memory 3 MHz of 3 MHz, limit 4 W",
    "cuda": "13.0", "cpu": "Fake CPU", "python": "3.12.1", "versions": "numba 0.6, torch 2.0", "date": "2026-01-02",
}  # fmt: skip
CEILINGS = [
    ceiling_row("copy", "float32", 2**30, 3000.0, "GB/s"),
    ceiling_row("float32 product", "float32", 8192, 50.0, "TFLOP/s"),
    ceiling_row("float64 product", "float64", 8192, 60.0, "TFLOP/s"),
    ceiling_row("bfloat16 product", "bfloat16", 8192, 700.0, "TFLOP/s"),
]
HOST_ROWS = [
    HostRow("numba_flash", "CuPy", "float32", ONE, False, 14.0, 0.5),
    HostRow("torch SDPA", "torch", "float32", ONE, True, 28.0, None),
    HostRow("numba_flash.torch", "torch", "float32", BOTH, False, None, None, "wrong: error 1 > 0"),
]
COLD_ROWS = [
    ColdRow("import numba_flash", "", "", 0.2, 0.1, 0.3, 5),
    ColdRow("first flash_attention, after those", "float32", "warm", 0.4, 0.4, 0.5, 5, "imports numba"),
]


def compare(x):
    return check([x], [REF], [RIGHT], "float32")


def broken():
    raise RuntimeError("no such kernel\nand more")


def contest(**ours):
    return Contest(
        ours={name: call if callable(call) else lambda call=call: call for name, call in ours.items()},
        peers={"slow": lambda: RIGHT, "quick": lambda: RIGHT, "absent": broken},
        check=compare,
        counts={"flash2_forward": (10**12, 10**10)},
    )


def clock(jobs):
    """Only what may be timed is."""
    return {name: TIMES[name] for name in jobs}


def ladder_rows():
    """A right kernel, a wrong one and three peers, one of which cannot run."""
    return measure(CELL, contest(flash2_forward=RIGHT, flash1_forward=RIGHT + np.float32(1e-3)), 50.0, clock)
