"""Traffic: what the simulator counts is what each rung's formula says, and it falls as the ladder rises."""

import itertools

import numpy as np
import pytest
from numba import cuda, types

from numba_flash import simulator
from numba_flash.arrays import read
from numba_flash.config import SIMULATOR
from numba_flash.ladder import BACKWARD, LADDER, MATMUL
from numba_flash.problem import Operands, ScoreOptions, real_of
from numba_flash.ptx import global_view, load4, shared_tile, store4
from numba_flash.rungs.passes import delta, merge
from numba_flash.runtime import Kernel, Launch, Written, launch
from numba_flash.specimen import ATTENTION, EVERY_OPTION, specimen, specimen_launches, zeros
from numba_flash.testing.tiles import tiny_tiles
from numba_flash.traffic import Traffic

from .helpers import DTYPES, in_simulator

RUNGS = [rung for rung in LADDER if rung.on_gpu]

# Sizes are whole tiles of `tiny_tiles`.
PROBLEMS = {
    "plain": {"N": 32, "d": 32},
    "half": {"N": 32, "d": 32, "dtype": "bfloat16"},
    "float64": {"N": 16, "d": 32, "dtype": "float64"},
}
ELEMENTS = {"elements": {"N": 16, "d": 32, "dtype": "float16", "vector": False}}
ATTENTION_PROBLEMS = (
    PROBLEMS
    | ELEMENTS
    | {
        "causal": {"N": 32, "d": 32, "last": 0},
        "window": {"N": 32, "d": 32, "first": -9, "last": 3},
        "heads": {"N": 16, "d": 32, "B": 2, "Hq": 2, "Hk": 1, "dv": 64},
        "narrow": {"N": 16, "d": 20, "dv": 8},
        "options": {"N": 16, "d": 32, "Hq": 2, **EVERY_OPTION},
        "half options": {"N": 32, "d": 32, "Hq": 2, "dtype": "float16", "last": 0, **EVERY_OPTION},
        "half, deterministic": {"N": 32, "d": 32, "dtype": "float16", "deterministic": True},
        "more work than blocks": {"N": 192, "d": 32, "dtype": "float16", "last": 0},
        "two launches": {"N": 64, "d": 32, "Hq": 2, "dtype": "float16", "deterministic": True},
        "bias": {"N": 16, "d": 32, "score": ScoreOptions(bias="float16")},
    }
)
MATMUL_PROBLEMS = {
    **PROBLEMS,
    "half": {"N": 32, "dtype": "bfloat16"},
    "deep": {"N": 32, "K": 96, "dtype": "float16", "out_dtype": "float32"},
    "elements": {"N": 32, "dtype": "float16", "vector": False},
    "shapes": {"N": 16, "B": 2, "M": 32, "K": 8, "out_dtype": "float64"},
}


def cases():
    """Every rung with every problem of its operation."""
    for rung in RUNGS:
        problems = {MATMUL: MATMUL_PROBLEMS, **dict.fromkeys(ATTENTION, ATTENTION_PROBLEMS)}
        for name, sizes in problems.get(rung.operation, PROBLEMS).items():
            required = sizes.get("dtype", "float32") == rung.usual_dtype and name in ("plain", "half")
            yield pytest.param(rung, specimen(rung.operation, **sizes), required, id=f"{rung.name}-{name}")


def count(launches):
    """What the simulator counts."""
    with simulator.count_traffic() as counted:
        for what in launches:
            launch(what)
    return counted


class TestFormula:
    pytestmark = in_simulator

    @pytest.mark.parametrize(("rung", "problem", "required"), list(cases()))
    def test_a_rung_moves_what_its_formula_says(self, rung, problem, required):
        with tiny_tiles():
            why_not = rung.why_not(problem, SIMULATOR)
            if why_not and not required:
                pytest.skip("; ".join(why_not))
            counted = count(specimen_launches(rung, problem, SIMULATOR))
            assert counted.total == rung.load().traffic(problem, SIMULATOR)
            assert rung.bytes(problem, SIMULATOR) == counted.total.global_read + counted.total.global_written

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("has_dlse", [False, True], ids=["", "dlse"])
    def test_delta(self, dtype, has_dlse):
        p = specimen(BACKWARD, dtype, N=5, d=40)
        o, lse = zeros((1, 1, 5, 40), dtype), zeros((1, 1, 5), p.real)
        operands = Operands(o, o, o, do=o, o=o, dlse=lse if has_dlse else None)
        assert count(delta.launches(p, operands, zeros((1, 1, 5), p.real))).total == delta.traffic(p, has_dlse)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_merge(self, dtype):
        o, lse = zeros((2, 3, 40), dtype), zeros((2, 3), real_of(dtype))
        assert count(merge.launches(o, lse, o, lse, o, lse)).total == merge.traffic(o, lse)


class TestCounting:
    """The simulator's counters, on kernels whose traffic is plain to see."""

    pytestmark = in_simulator

    @staticmethod
    def copy(X, Y, Z):
        i = cuda.threadIdx.x
        x, y = global_view(X, 0, types.float32), global_view(Y, 0, types.float64)
        assert global_view(Z, 0, types.float32) is None
        local = cuda.local.array(2, types.float64)
        local[0] = x[i]
        y[i] = local[0]

    @staticmethod
    def tiles(X, Y):
        i = cuda.threadIdx.x
        x, y = global_view(X, 0, types.float32), global_view(Y, 0, types.float32)
        window = shared_tile(0, (4, 8), types.float32)
        declared = cuda.shared.array((4, 8), types.float64, 32)
        store4(window, (i, 4), load4(x, 4 * i))
        declared[i, 0] = window[i, 4]
        row = declared[i]
        row[1] = row[0] + 1
        store4(declared, (i, 4), load4(window, (i, 4)))
        store4(y, 4 * i, load4(declared, (i, 4)))

    def start(self, function, *arrays):
        x, y = np.arange(16, dtype=np.float32), np.zeros(16, arrays[0])
        args = (read(x), Written(read(y)), *arrays[1:])
        return Launch(Kernel.of(function, 4, 128), 1, args), y

    def test_global_reads_and_writes(self):
        what, y = self.start(self.copy, np.float64, None)
        assert count([what]).total == Traffic(global_read=4 * 4, global_written=4 * 8)
        assert np.array_equal(y[:4], np.arange(4))

    def test_vectors_and_shared_tiles(self):
        what, y = self.start(self.tiles, np.float32)
        window_read, window_written = (1 + 4) * 4, 4 * 4
        declared_read, declared_written = (1 + 4) * 8, (1 + 1 + 4) * 8
        total = Traffic(4 * 16, 4 * 16, 4 * (window_read + declared_read), 4 * (window_written + declared_written))
        assert count([what]).total == total
        assert np.array_equal(y, np.arange(16))

    def test_each_launch_has_its_own(self):
        what, _ = self.start(self.copy, np.float64, None)
        counted = count([what, what])
        assert [tally.kernel for tally in counted.launches] == ["copy", "copy"]
        assert {tally.traffic for tally in counted.launches} == {Traffic(16, 32)}
        assert counted.total == Traffic(32, 64)

    def test_nothing_is_counted_outside_of_the_block(self):
        what, _ = self.start(self.copy, np.float64, None)
        with simulator.count_traffic() as outer:
            inner = count([what])
        launch(what)
        assert (outer.total, inner.total) == (Traffic(), Traffic(16, 32))

    def test_an_access_that_fails_does_not_count(self):
        what, _ = self.start(self.tiles, np.float32)
        with simulator.count_traffic() as counted, pytest.raises(simulator.MemoryFault):
            launch(Launch(what.kernel, 1, (read(np.zeros(3, np.float32)), *what.args[1:])))
        assert counted.total == Traffic()


def moved(traffic):
    """Bytes of global memory, and those of shared memory at a fifth: so much faster it is than even a cache."""
    return traffic.global_read + traffic.global_written + (traffic.shared_read + traffic.shared_written) / 5


@pytest.mark.parametrize("operation", dict.fromkeys(rung.operation for rung in RUNGS))
def test_traffic_falls_as_the_ladder_rises(operation):
    rungs = [rung for rung in RUNGS if rung.operation == operation]
    for lower, upper in itertools.pairwise(rungs):
        problem = specimen(operation, upper.usual_dtype, N=4096, H=8)
        after, before = (rung.load().traffic(problem, SIMULATOR) for rung in (upper, lower))
        assert moved(after) < moved(before), f"{upper.name} after {lower.name}"
