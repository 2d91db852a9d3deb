"""What a process waits for before its first result: every figure from fresh processes, medians."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numba_flash

REPETITIONS = 5
TIMEOUT = 120  # seconds that a process may take
CACHE = "NUMBA_FLASH_CACHE_DIR"
COLD_DTYPES = ("float32", "bfloat16")

# Programs that print seconds, and perhaps a remark, as JSON.
IMPORT = """
import json, time
begin = time.perf_counter()
import {module}
print(json.dumps([time.perf_counter() - begin, ""]))
"""
CONTEXT = """
import json, time
import cupy
begin = time.perf_counter()
cupy.zeros(1)
cupy.cuda.Device().synchronize()
print(json.dumps([time.perf_counter() - begin, ""]))
"""
COMPILE = """
import json, time
import numba.cuda
from numba_flash.compiled import Variant, compile_variant
from numba_flash.ladder import FORWARD
from numba_flash.specimen import specimen
variant = Variant("flash2_forward", "flash2_forward", "sm_90", specimen(FORWARD, "float32"), 0)
begin = time.perf_counter()
result = compile_variant(variant)
assert not result.broken, result.broken
print(json.dumps([time.perf_counter() - begin, ""]))
"""
FIRST_RESULT = """
import json, sys, time
import cupy, ml_dtypes, numpy
x = numpy.random.default_rng(0).standard_normal((3, 1, 4, 128, 64), "float32")
q, k, v = (cupy.asarray(a.astype("{dtype}")) for a in x)
cupy.cuda.Device().synchronize()
begin = time.perf_counter()
import numba_flash
o = numba_flash.flash_attention(q, k, v)
cupy.cuda.Device().synchronize()
seconds = time.perf_counter() - begin
assert cupy.isfinite(o.astype("float32")).all()
print(json.dumps([seconds, "imports numba" if "numba" in sys.modules else ""]))
"""
ONE_MORE = """
import json, time
import cupy, numpy, numba_flash
x = numpy.random.default_rng(0).standard_normal((3, 1, 4, 128, 64), "float32")
q, k, v = (cupy.asarray(a) for a in x)
numba_flash.softmax(q)
cupy.cuda.Device().synchronize()
begin = time.perf_counter()
numba_flash.flash_attention(q, k, v)
cupy.cuda.Device().synchronize()
print(json.dumps([time.perf_counter() - begin, ""]))
"""


@dataclass(frozen=True)
class Start:
    """One thing to wait for.

    cache : the disk cache that the process finds: "warm", "empty" or, where it makes no difference, ""
    gpu : does it need one?
    optional : may it fail, since it needs what not everybody has installed?
    """

    what: str
    program: str
    dtype: str = ""
    cache: str = ""
    gpu: bool = False
    optional: bool = False


@dataclass(frozen=True)
class ColdRow:
    """Seconds of several fresh processes: the median, the least and the most; or why there are none."""

    what: str
    dtype: str
    cache: str
    seconds: float | None
    least: float | None
    most: float | None
    repetitions: int
    remark: str = ""
    refused: str = ""
    optional: bool = False

    @property
    def failed(self) -> bool:
        """Is there no time, and should there be one?"""
        return bool(self.refused) and not self.optional


def starts(gpu: bool, dtypes: Sequence[str] | None = None) -> list[Start]:
    """What is timed on a machine with or without a GPU."""
    found = [Start(f"import {m}", IMPORT.format(module=m), gpu=m == "cupy")
             for m in ("numpy", "numba_flash", "numba.cuda", "cupy")]  # fmt: skip
    found.append(Start("CUDA context, after import cupy", CONTEXT, gpu=True))
    for dtype in dtypes or COLD_DTYPES:
        program = FIRST_RESULT.format(dtype=dtype)
        found += [Start("first flash_attention, after those", program, dtype, c, gpu=True) for c in ("warm", "empty")]
    found.append(Start("one more kernel, after a first one", ONE_MORE, "float32", "empty", gpu=True))
    found.append(Start("one kernel compiled for sm_90, which need not be here", COMPILE, "float32", "empty",
                       optional=True))  # fmt: skip
    return [start for start in found if gpu or not start.gpu]


Run = Callable[[str, Path], tuple[float, str]]  # as `run`
Say = Callable[[str, float], None]  # what is timed next, and the share that is done


def run(program: str, cache: Path) -> tuple[float, str]:
    """What a fresh process prints that runs a program with this cache directory.

    Raises
    ------
    RuntimeError
        If it fails or takes too long; with the last thing it says.
    """
    package = str(Path(numba_flash.__file__).parents[1])
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_ENABLE_CUDASIM"}
    paths = os.pathsep.join(filter(None, [package, environment.get("PYTHONPATH")]))
    environment |= {CACHE: str(cache), "PYTHONPATH": paths}
    command = [sys.executable, "-c", program]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"not done after {TIMEOUT} s") from None
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
    seconds, remark = json.loads(done.stdout.strip().splitlines()[-1])
    return seconds, remark


def cold_rows(todo: Sequence[Start], repetitions: int, say: Say, run: Run = run) -> list[ColdRow]:
    """Each start `repetitions` times, taking turns; one process more fills a warm cache, and disk caches, first."""
    seconds: dict[Start, list[float]] = {start: [] for start in todo}
    remarks, refused = dict.fromkeys(todo, ""), dict.fromkeys(todo, "")
    with TemporaryDirectory() as folder:
        for turn in range(repetitions + 1):
            for number, start in enumerate(todo):
                say(start.what, (turn + number / len(todo)) / (repetitions + 1))
                cache = Path(folder, f"{number}-{turn if start.cache == 'empty' else 'warm'}")
                cache.mkdir(exist_ok=True)
                if refused[start]:
                    continue
                try:
                    time, remark = run(start.program, cache)
                except RuntimeError as error:
                    refused[start] = str(error)
                    continue
                if turn:
                    seconds[start].append(time)
                    idle = "; wrote no cache" if start.cache == "warm" and not any(cache.iterdir()) else ""
                    remarks[start] = f"{remark}{idle}".removeprefix("; ")
    return [row_of(start, seconds[start], remarks[start], refused[start]) for start in todo]


def row_of(start: Start, seconds: Sequence[float], remark: str, refused: str) -> ColdRow:
    """The row of one start."""
    if refused:
        return ColdRow(start.what, start.dtype, start.cache, None, None, None, 0, remark, refused, start.optional)
    figures = statistics.median(seconds), min(seconds), max(seconds)
    return ColdRow(start.what, start.dtype, start.cache, *figures, len(seconds), remark, "", start.optional)
