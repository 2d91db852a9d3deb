"""The soak command: it counts what it tried, and a property that does not hold is an exit status with its example."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from interpreter import environment

from numba_flash.__main__ import main
from numba_flash.rungs.arguments import padded_width
from numba_flash.soak import command, search
from numba_flash.soak.properties import (
    Property,
    backend_named,
    common_to,
    find_properties,
    with_few_kernels,
    with_kernel,
)
from numba_flash.soak.search import Search
from numba_flash.soak.worker import Order, TooMuchMemoryError, work
from numba_flash.testing.backends import CPU, GPU, SIMULATOR, Backend
from numba_flash.testing.matmul import MatmulCase

TESTS = Path(__file__).parents[1]
PROPERTIES = find_properties(TESTS / "properties")


def made(holds, **restrictions):
    """A property of matrix products."""
    return Property("properties.test_fake", "test_fake", holds, Backend.matmul_cases, restrictions)


def searched(holds, turns=3, seconds=60.0):
    """Its search on the CPU backend, after some turns."""
    what = made(holds)
    found = Search(what, what.strategy(CPU), CPU, seed=1, until=time.time() + seconds)
    for _ in range(turns):
        found.turn()
    return found


def test_properties_are_found():
    titles = [p.title for p in PROPERTIES]
    assert len(set(titles)) == len(titles) >= 20
    assert {"test_agreement.test_forward", "test_agreement.test_backward", "test_matmul.test_product"} <= set(titles)
    (one,) = find_properties(TESTS / "properties", ["agreement.test_forw"])
    assert one.title == "test_agreement.test_forward"


def test_workers_meet_every_kernel_choice_and_few_kernels_each():
    choices = {
        (b.sizes["dtypes"], b.sizes["depths"], b.sizes["options"])
        for b in (with_few_kernels(GPU, seed) for seed in range(100, 124))
    }
    assert len(choices) == 24
    assert with_few_kernels(CPU, 1) is CPU and with_few_kernels(SIMULATOR, 1) is SIMULATOR


def test_another_kernel():
    assert with_kernel(CPU, "") is CPU
    older = with_kernel(SIMULATOR, "flash1_forward")
    assert (older.kernel, older.backward) == ("flash1_forward", "flash1_backward")
    for name, backward in (("flash2_mma", "flash2_mma_backward"), ("flash3", "flash3_backward")):
        newer = with_kernel(GPU, name)
        assert (newer.kernel, newer.backward) == (f"{name}_forward", backward)
        dtypes = {with_few_kernels(newer, seed).sizes["dtypes"] for seed in range(12)}
        assert dtypes == {("float16",), ("bfloat16",)}


@pytest.mark.parametrize("seed", range(6))
def test_cases_of_a_worker(seed):
    backend = with_few_kernels(GPU, seed)
    seen = []

    @settings(max_examples=30, database=None)
    @given(case=backend.cases())
    def draw(case):
        seen.append(case)

    draw()
    assert {case.dtype for case in seen} == set(backend.sizes["dtypes"])
    assert {n for case in seen for n in (case.d, case.dv)} <= set(backend.sizes["depths"])
    assert len({padded_width(n) for case in seen for n in (case.d, case.dv)}) == 1


def test_restrictions_are_kept():
    assert common_to(("float64", "float16"), ("float16", "float32")) == ("float16",)
    (derivative,) = (p for p in PROPERTIES if p.name == "test_directional_derivative")
    narrow = [with_few_kernels(GPU, seed) for seed in range(24)]
    able = {b.sizes["dtypes"][0] for b in narrow if derivative.strategy(b) is not None}
    assert able == {"float64"}
    assert derivative.strategy(CPU) is not None


def test_what_held_is_counted():
    cases = []
    found = searched(lambda backend, case: cases.append(case))
    assert found.tried == len(cases) >= 3 * search.LEAST / 2 and not found.over
    assert len(set(cases)) > found.tried / 2


def test_cases_that_a_property_is_not_about_do_not_count():
    assert searched(lambda backend, case: assume(case.dtype == "float16"), turns=1).tried > 0
    assert searched(lambda backend, case: assume(False), turns=1).tried == 0


def test_other_seeds_try_other_cases():
    what, runs = made(lambda backend, case: runs[-1].append(case)), []
    for seed in (1, 2, 1):
        runs.append([])
        Search(what, what.strategy(CPU), CPU, seed, time.time() + 60).turn()
    assert runs[0] == runs[2] != runs[1]


def test_nothing_is_counted_when_the_time_is_up():
    assert searched(lambda backend, case: None, seconds=-1.0).tried == 0


def test_a_failing_case_is_shrunk():
    def holds(backend, case):
        assert case.a[-1] < 5, "too deep"

    found = searched(holds)
    assert found.over and not found.failure.flaky
    assert found.failure.error.startswith("AssertionError: too deep")
    assert eval(found.failure.case) == MatmulCase(a=(1, 5), b=(5, 1), dtype="bfloat16")


def test_shrinking_ends(monkeypatch):
    monkeypatch.setattr(search, "SHRINK_SECONDS", 0.0)
    tried = []

    def holds(backend, case):
        tried.append(case)
        assert case.a[-1] < 5

    found = searched(holds)
    assert found.failure and not found.failure.flaky
    first = next(n for n, case in enumerate(tried) if case.a[-1] >= 5)
    assert len(set(tried[first:])) == 1


def test_a_case_that_fails_once():
    tries = []

    def holds(backend, case):
        tries.append(case)
        assert len(tries) != 4

    assert searched(holds).failure.flaky


def test_a_property_may_skip_a_backend():
    found = searched(lambda backend, case: pytest.skip("not here"), turns=1)
    assert found.over and found.skipped == "not here" and not found.failure


def test_memory_is_limited():
    order = Order(1, "simulator", TESTS / "properties", ("test_product",), time.time() + 60, memory=1)
    reports = []
    with pytest.raises(TooMuchMemoryError):
        work(order, reports.append)
    assert [turn.property for turn in reports] == ["test_matmul.test_product"]


@pytest.mark.parametrize("name", ["cpu", "gpu", "simulator"])
def test_backends_have_names(name):
    assert backend_named(name).name == name


class TestCommand:
    """In processes of its own."""

    @pytest.fixture
    def soak(self, tmp_path):
        def run(*arguments, **modules):
            if modules:
                (tmp_path / "planted").mkdir()
                (tmp_path / "planted" / "__init__.py").touch()
                for name, source in modules.items():
                    (tmp_path / "planted" / f"{name}.py").write_text(source)
                arguments = (*arguments, "--properties", tmp_path / "planted")
            self.environment = environment(tmp_path, NUMBA_ENABLE_CUDASIM="1")
            line = [sys.executable, "-m", "numba_flash", "soak", "--backend", "simulator", "--seed", "5"]
            self.done = subprocess.run(
                [*line, "--json", tmp_path / "soak.json", *map(str, arguments)],
                env=self.environment, capture_output=True, text=True,
            )  # fmt: skip
            return json.loads((tmp_path / "soak.json").read_text())

        return run

    def test_properties_hold(self, soak):
        found = soak("--seconds", 8, "--workers", 2, "--only", "test_matmul")
        assert self.done.returncode == 0, self.done.stdout + self.done.stderr
        assert set(found["properties"]) <= {p.title for p in PROPERTIES if p.title.startswith("test_matmul.")}
        assert found["examples"] == sum(found["properties"].values()) > 0
        assert f"{found['examples']} examples in " in self.done.stdout
        assert not found["failures"] and not found["lost"]

    def test_a_planted_bug_is_found(self, soak):
        found = soak("--seconds", 60, "--workers", 1, test_planted=PLANTED)
        assert self.done.returncode == 1
        (failure,) = found["failures"]
        assert failure["property"] == "test_planted.test_with_a_mutant" and failure["seed"] == 5
        assert failure["error"].startswith("AssertionError: o: max|out - ref|")
        assert failure["reproduce"] in self.done.stdout and "Case(" in failure["reproduce"]
        again = subprocess.run(
            [sys.executable, "-c", failure["reproduce"]], env=self.environment, capture_output=True, text=True
        )
        assert again.returncode == 1 and "AssertionError: o: max|out - ref|" in again.stderr

    def test_a_worker_that_dies_is_noted(self, soak):
        found = soak("--seconds", 20, "--workers", 1, test_fatal=FATAL)
        assert self.done.returncode == 1
        assert found["lost"] == ["the worker with seed 5 ended with status 7"]


PLANTED = """
from mutants.test_mutants import MUTANTS
from properties import test_algebra
from properties.for_all import for_all

(mutant,) = (m for m in MUTANTS if m.name == "O is not rescaled")
alive = mutant.alive()
alive.__enter__()  # for as long as the process lives


@for_all()
def test_with_a_mutant(backend, case):
    test_algebra.test_ones_give_ones.holds(backend, case)
"""

FATAL = """
import os

from properties.for_all import for_all


@for_all()
def test_fatal(backend, case):
    os._exit(7)
"""


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--properties", "/nowhere"], "no test modules in /nowhere"),
        (["--backend", "gpu"], "needs an NVIDIA GPU"),
    ],
)
def test_what_cannot_work(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(command, "gpu_count", lambda: 0)
    assert main(["soak", *arguments]) == 2
    out = capsys.readouterr().out
    assert message in out and out.count("\n") == 1


@pytest.mark.gpu
def test_on_a_gpu(tmp_path):
    file = tmp_path / "soak.json"
    status = main(["soak", "--seconds", "60", "--workers", "2", "--backend", "gpu", "--json", str(file)])
    found = json.loads(file.read_text())
    assert status == 0 and found["examples"] > 100, found
