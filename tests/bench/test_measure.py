"""Rows, tables and the README's section, from fake contests and clocks."""

from dataclasses import replace

import numpy as np
import pytest

from numba_flash.bench.cells import EVERYONE, SOFTMAX, Cell, ladder_plan, lengths_plan, rungs_for
from numba_flash.bench.checks import check
from numba_flash.bench.machine import describe
from numba_flash.bench.measure import ceilings, measure
from numba_flash.bench.report import has_markers, ladder_section, readme_section, table_of, write_readme
from numba_flash.bench.results import COLD, HOST, LADDER, LENGTHS, Result
from numba_flash.bench.style import Picture
from numba_flash.ladder import BACKWARD, FASTEST_FIRST, FORWARD, MATMUL
from numba_flash.ladder import LADDER as RUNGS
from numba_flash.problem import visible_pairs

from .fakes import (
    CEILINGS,
    CELL,
    COLD_ROWS,
    HOST_ROWS,
    MACHINE,
    REF,
    RIGHT,
    broken,
    clock,
    compare,
    contest,
    ladder_rows,
)


@pytest.fixture
def rows():
    return ladder_rows()


def by_provider(rows):
    return {row.provider: row for row in rows}


def test_rates_and_ratios(rows):
    ours = by_provider(rows)["flash2_forward"]
    assert ours.milliseconds == 2.0 and not ours.refused and not ours.failed
    assert ours.rate == pytest.approx(4 * 8 * 1024 * 2048**2 / 2e-3 / 1e12) and ours.unit == "TFLOP/s"
    assert ours.of_ceiling == ours.rate / 50
    assert ours.faster_than == {"slow": 4.0, "quick": 0.5} and ours.best_peer == "quick"
    assert by_provider(rows)["quick"].faster_than == {"slow": 8.0}


def test_a_wrong_kernel_is_not_timed(rows):
    wrong = by_provider(rows)["flash1_forward"]
    assert wrong.milliseconds is wrong.rate is wrong.of_ceiling is None and not wrong.faster_than
    assert wrong.failed and wrong.refused.startswith("wrong: error 0.001 > ")
    assert wrong.relative_error == pytest.approx(1e-3 * np.sqrt(REF.size) / np.linalg.norm(REF), rel=1e-3)


def test_a_peer_that_cannot_run_is_no_failure(rows):
    absent = by_provider(rows)["absent"]
    assert absent.refused == "RuntimeError: no such kernel" and not absent.failed


def test_a_kernel_that_raises_is_a_failure():
    row = by_provider(measure(CELL, contest(flash1_forward=broken), 50.0, clock))["flash1_forward"]
    assert row.failed and row.refused == "RuntimeError: no such kernel"


@pytest.mark.parametrize("spoil", [lambda x: x * np.nan, lambda x: x.at, lambda x: x[:2]])
def test_nan_and_other_shapes_are_refused(spoil):
    rows = measure(CELL, contest(flash2_forward=lambda: spoil(RIGHT)), 50.0, clock)
    assert by_provider(rows)["flash2_forward"].failed


def test_check_takes_the_worst_array():
    found = check([RIGHT, RIGHT + np.float32(1e-5)], [REF, REF], [RIGHT, RIGHT], "float32")
    assert not found.ok and found.error == pytest.approx(1e-5, rel=1e-2)
    assert compare(RIGHT).ok and compare(RIGHT).relative_error < 1e-7
    assert not compare(RIGHT * np.float32(np.nan)).ok


def test_memory_is_given_back_before_every_check():
    freed = []
    measure(CELL, contest(flash2_forward=RIGHT), 50.0, clock, lambda: freed.append(1))
    assert len(freed) == 4


def test_operations_and_bytes_are_of_our_kernels(rows):
    found = by_provider(rows)
    assert (found["flash2_forward"].operations, found["flash2_forward"].bytes) == (10**12, 10**10)
    assert found["quick"].operations is None


def test_work_is_counted_as_the_papers_do():
    forward = 4 * 8 * 16 * 2048**2 * 64  # 16384 positions in all
    assert CELL.work == forward and replace(CELL, causal=True).work == forward / 2
    assert replace(CELL, operation=BACKWARD).work == 2.5 * forward
    assert replace(CELL, N=16384).work == 4 * 1024 * 16384**2
    assert Cell(MATMUL, "float32", 8).rate(1e-9) == pytest.approx(2 * 8**3 / 1e-12 / 1e12)
    assert Cell(SOFTMAX, "float32", 1024).rate(1.0) == pytest.approx(2**26 * 4 * 2 / 1e-3 / 1e9)


@pytest.mark.parametrize("causal", [False, True])
def test_a_cells_problem_is_what_the_calls_solve(causal):
    problem = replace(CELL, causal=causal).problem()
    assert (problem.B, problem.Hq, problem.Nq, problem.Nk, problem.d, problem.dv) == (8, 16, 2048, 2048, 64, 64)
    assert visible_pairs(problem) == 8 * 16 * (2048 * 2049 // 2 if causal else 2048**2)
    rows = Cell(SOFTMAX, "float32", 1024).problem()
    assert (rows.B * rows.M, rows.N) == (2**16, 1024)


def test_the_ladder_times_every_kernel():
    timed = {rung.name for cell in ladder_plan() for rung in rungs_for(cell)}
    assert timed == {rung.name for rung in RUNGS if rung.on_gpu}
    assert len({(c.operation, c.dtype, c.N, c.d, c.causal) for c in ladder_plan()}) == len(ladder_plan())
    grid = {(c.d, c.N, c.causal) for c in ladder_plan() if c.operation == FORWARD and c.dtype == "float32"}
    assert grid == {(d, N, causal) for d in (64, 128) for N in (2048, 4096) for causal in (False, True)}


def test_lengths_are_of_the_fastest_kernels():
    cells = lengths_plan()
    grid = {(d, N, causal) for d in (64, 128, 256) for N in (1024, 4096, 16384) for causal in (False, True)}
    assert {(c.d, c.N, c.causal) for c in cells} == grid
    assert {c.batch * c.N for c in cells} == {16384} and {c.heads * c.d for c in cells} == {2048}
    timed = {(c.operation, *[rung.name for rung in rungs_for(c)]) for c in cells}
    assert timed == {
        (FORWARD, "flash3_forward", "flash2_mma_forward"),
        (BACKWARD, "flash3_backward", "flash2_mma_backward"),
    }
    assert {c.dtype for c in lengths_plan(["float16", "bfloat16"])} == {"float16", "bfloat16"}


def test_large_cells_leave_the_teaching_rungs_out():
    for cell in ladder_plan():
        if cell.who != EVERYONE:
            assert {rung.name for rung in rungs_for(cell)} <= set(FASTEST_FIRST)


def test_only():
    assert [r.name for r in rungs_for(Cell(BACKWARD, "float32", 64, 64, False), ["flash2", "mat"])] == [
        "flash2_backward"
    ]
    assert [r.name for r in rungs_for(Cell(MATMUL, "float32", 64), ["*registers"])] == ["matmul_registers"]
    assert not rungs_for(CELL, ["matmul"])


RESULTS = [
    Result(LADDER, [*CEILINGS, *ladder_rows()], MACHINE),
    Result(LENGTHS, ladder_rows(), MACHINE),
    Result(HOST, HOST_ROWS, MACHINE),
    Result(COLD, COLD_ROWS, MACHINE | {"date": "2026-01-03"}),
]


def test_readme(rows, tmp_path):
    file = tmp_path / "README.md"
    file.write_text("before\n<!-- speed -->\nold\n<!-- /speed -->\nafter\n")
    picture = Picture("Speed", tmp_path / "plots" / "a_light.svg", tmp_path / "plots" / "a_dark.svg")
    for _ in range(2):  # the second run replaces what the first one wrote
        write_readme(file, RESULTS, [picture])
    text = file.read_text()
    assert text.startswith("before\n<!-- speed -->\n") and text.endswith("\n<!-- /speed -->\nafter\n")
    assert "old" not in text and text.count(f"{describe(MACHINE)}.") == 1
    assert text.count("2026-01-03") == 1  # another day's part says so
    rate = by_provider(rows)["flash2_forward"].rate
    assert f"| forward float32 | 64 | 2048 | no | {rate:.1f} TFLOP/s | {rate / 4:.1f} |" in text
    assert "| flash1_forward | forward float32 | 64 | 2048 | no | - | - | - |" in text
    assert "copy 3000 GB/s; float32 product 50 TFLOP/s; float64 product 60 TFLOP/s" in text
    assert "| numba_flash | forward | CuPy | float32 | 14.0 | 0.50 |" in text and "numba_flash.torch" not in text
    assert "| first flash_attention, after those | float32 | warm cache | 0.40 | 0.40 to 0.50 | imports numba |" in text
    assert '<source media="(prefers-color-scheme: dark)" srcset="plots/a_dark.svg">' in text
    assert '<img alt="Speed" src="plots/a_light.svg">' in text


def test_readme_tables_are_rectangular(tmp_path):
    tables = [part for part in readme_section(RESULTS, [], tmp_path).split("\n\n") if part.startswith("|")]
    assert len(tables) == 5
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_ceilings_are_no_rows_of_the_tables():
    (limits, fastest, _, ladder) = ladder_section(RESULTS[0].rows)
    assert "copy" in limits and "copy" not in fastest + ladder and "product" not in fastest + ladder
    assert ceilings(RESULTS[0].rows) == {row.provider: row.rate for row in CEILINGS}


def test_markers():
    assert has_markers("<!-- speed --> <!-- /speed -->")
    for text in (
        "",
        "<!-- /speed --> <!-- speed -->",
        "<!-- speed -->",
        "<!-- speed --> <!-- speed --> <!-- /speed -->",
    ):
        assert not has_markers(text)


def test_tables_for_the_screen_have_all_rows():
    for result in RESULTS:
        assert table_of(result).row_count == len(result.rows)
