"""Cold starts: fresh processes, taking turns, on warm and on empty caches."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from numba_flash.bench import cold
from numba_flash.bench.cold import CACHE, CONTEXT, FIRST_RESULT, IMPORT, ONE_MORE, Start, cold_rows, run, starts

PLAIN, WARM, EMPTY = Start("a", "A"), Start("b", "B", "float32", "warm"), Start("b", "B", "float32", "empty")


def silent(text, done):
    assert text and 0 <= done < 1


class Runs:
    """Processes that are only written down: each takes as long as there were processes before it."""

    def __init__(self, fill=True):
        self.seen, self.fill = [], fill

    def __call__(self, program, cache):
        self.seen.append((program, cache, any(cache.iterdir())))
        if self.fill:
            (cache / "kernel").write_text("")
        return float(len(self.seen)), ""


def test_processes_take_turns_and_the_first_of_each_only_warms_up():
    runs = Runs()
    a, b, c = cold_rows([PLAIN, WARM, EMPTY], 3, silent, runs)
    assert [program for program, _, _ in runs.seen] == ["A", "B", "B"] * 4
    assert (a.seconds, a.least, a.most, a.repetitions) == (7.0, 4.0, 10.0, 3)
    assert (b.seconds, b.cache, b.dtype, c.seconds, c.cache) == (8.0, "warm", "float32", 9.0, "empty")
    assert not any(row.failed for row in (a, b, c))


def test_a_warm_cache_stays_and_an_empty_one_is_new():
    runs = Runs()
    cold_rows([WARM, EMPTY], 3, silent, runs)
    warm, empty = runs.seen[::2], runs.seen[1::2]
    assert len({cache for _, cache, _ in warm}) == 1 and [full for _, _, full in warm] == [False, True, True, True]
    assert len({cache for _, cache, _ in empty}) == 4 and not any(full for _, _, full in empty)
    assert not warm[0][1].exists()


def test_a_warm_start_that_writes_no_cache_says_so():
    rows = cold_rows([WARM, EMPTY], 1, silent, Runs(fill=False))
    assert [row.remark for row in rows] == ["wrote no cache", ""]


def test_a_start_that_fails_has_no_time():
    def fails(program, cache):
        if program == "B":
            raise RuntimeError("ImportError: no such thing")
        return 1.0, ""

    a, b, c = cold_rows([PLAIN, WARM, replace(WARM, optional=True)], 2, silent, fails)
    assert a.seconds == 1.0 and not a.failed
    assert b.failed and b.seconds is None and b.refused == "ImportError: no such thing"
    assert c.refused and not c.failed


def test_without_a_gpu_only_what_needs_none():
    names = [start.what for start in starts(gpu=False)]
    imports = ["import numpy", "import numba_flash", "import numba.cuda"]
    assert names == [*imports, "one kernel compiled for sm_90, which need not be here"]
    more = starts(gpu=True, dtypes=["float16"])
    assert {(s.dtype, s.cache) for s in more if s.program == FIRST_RESULT.format(dtype="float16")} == {
        ("float16", "warm"), ("float16", "empty"),
    }  # fmt: skip
    for start in more:
        compile(start.program, start.what, "exec")


def test_a_fresh_process(tmp_path):
    program = (
        "import json, os, numba_flash\n"
        "print('noise')\n"
        f"print(json.dumps([1.5, os.environ['{CACHE}'] + str('NUMBA_ENABLE_CUDASIM' in os.environ)]))"
    )
    assert run(program, tmp_path) == (1.5, f"{tmp_path}False")
    seconds, remark = run(IMPORT.format(module="json"), tmp_path)
    assert 0 < seconds < 5 and remark == ""


def test_processes_import_this_package(tmp_path):
    program = "import json, numba_flash\nprint(json.dumps([0, numba_flash.__file__]))"
    assert Path(run(program, tmp_path)[1]).samefile(cold.numba_flash.__file__)


@pytest.mark.parametrize(
    "program, message",
    [("raise ValueError('why')", "ValueError: why"), ("import time; time.sleep(9)", "not done after 1 s"),
     ("import os; os._exit(3)", "no message")],
)  # fmt: skip
def test_a_process_that_fails(program, message, tmp_path, monkeypatch):
    monkeypatch.setattr(cold, "TIMEOUT", 1 if "sleep" in program else 60)
    with pytest.raises(RuntimeError, match=message):
        run(program, tmp_path)


def test_first_results_with_numpy_in_cupys_place(tmp_path, monkeypatch):
    """The programs that need a GPU, line by line: the library then takes its CPU path."""
    (tmp_path / "cupy.py").write_text(
        "from types import SimpleNamespace as N\n"
        "from numpy import asarray, isfinite, zeros\n"
        "class ndarray: pass\n"
        "device = N(synchronize=lambda: None)\n"
        "cuda = N(Device=lambda: device, runtime=N(getDeviceCount=lambda: 0, CUDARuntimeError=OSError))\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    assert run(CONTEXT, tmp_path)[0] >= 0
    seconds, remark = run(FIRST_RESULT.format(dtype="bfloat16"), tmp_path)
    assert seconds > 0 and remark == "imports numba"  # the CPU path is compiled by it
    assert run(ONE_MORE, tmp_path)[0] > 0


def test_one_kernel_compiles(tmp_path):
    seconds, _ = run(cold.COMPILE, tmp_path)
    assert 0.1 < seconds < 100


@pytest.mark.gpu
def test_cold_starts_on_a_gpu():
    rows = cold_rows(starts(gpu=True, dtypes=["float32"]), 1, silent)
    assert not [(row.what, row.refused) for row in rows if row.failed]
    assert json.dumps([row.seconds for row in rows])
