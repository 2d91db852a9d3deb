"""The bench command without a GPU: what it times and refuses, and what it writes; and a quick run on a GPU."""

import csv
import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from numba_flash import reference
from numba_flash.__main__ import main, make_parser
from numba_flash.arrays import gpu_count
from numba_flash.bench import command, contests, peers
from numba_flash.bench.cells import SOFTMAX, Cell, plan, rungs_for
from numba_flash.bench.checks import check
from numba_flash.bench.machine import describe, file_name
from numba_flash.bench.measure import Contest, Row, measure
from numba_flash.bench.report import has_markers, readme_tables, table_of, write_csv, write_json, write_readme
from numba_flash.ladder import BACKWARD, FASTEST_FIRST, FORWARD, LADDER, MATMUL

CELL = Cell(FORWARD, "float32", N=2048, d=64, causal=False)
REF = np.linspace(-1, 1, 100).reshape(4, 25)
RIGHT = REF.astype(np.float32)
MACHINE = {"gpu": "NVIDIA Fake 1", "driver": "1.2", "cuda": "13.0", "versions": {"numba": "0.6"}, "date": "2026-01-02"}


def compare(x):
    return check([x], [REF], [RIGHT], "float32")


def broken():
    raise RuntimeError("no such kernel\nand more")


def contest(**ours):
    return Contest(
        ours={name: call if callable(call) else lambda call=call: call for name, call in ours.items()},
        peers={"slow": lambda: RIGHT, "quick": lambda: RIGHT, "absent": broken},
        check=compare,
    )


TIMES = {"flash2_forward": 2.0, "slow": 8.0, "quick": 1.0}


def clock(jobs):
    """Only what may be timed is."""
    return {name: TIMES[name] for name in jobs}


@pytest.fixture
def rows():
    return measure(CELL, contest(flash2_forward=RIGHT, flash1_forward=RIGHT + np.float32(1e-3)), 50.0, clock)


def by_provider(rows):
    return {row.provider: row for row in rows}


def test_rates_and_ratios(rows):
    ours = by_provider(rows)["flash2_forward"]
    assert ours.milliseconds == 2.0 and not ours.refused and not ours.failed
    assert ours.rate == pytest.approx(4 * 4 * 1024 * 2048**2 / 2e-3 / 1e12) and ours.unit == "TFLOP/s"
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


def test_work_is_counted_as_the_papers_do():
    forward = 4 * 4 * 16 * 2048**2 * 64
    assert CELL.work == forward and replace(CELL, causal=True).work == forward / 2
    assert replace(CELL, operation=BACKWARD).work == 2.5 * forward
    assert Cell(MATMUL, "float32", 8).rate(1e-9) == pytest.approx(2 * 8**3 / 1e-12 / 1e12)
    assert Cell(SOFTMAX, "float32", 1024).rate(1.0) == pytest.approx(2**26 * 4 * 2 / 1e-3 / 1e9)


def test_the_plan_times_every_kernel_of_the_ladder():
    timed = {rung.name for cell in plan() for rung in rungs_for(cell)}
    assert timed == {rung.name for rung in LADDER if rung.on_gpu}
    assert len({(c.operation, c.dtype, c.N, c.d, c.causal) for c in plan()}) == len(plan())
    grid = {(c.d, c.N, c.causal) for c in plan() if c.operation == FORWARD and c.dtype == "float32"}
    assert grid == {(d, N, causal) for d in (64, 128) for N in (2048, 4096) for causal in (False, True)}


def test_large_cells_leave_the_teaching_rungs_out():
    for cell in plan():
        if not cell.teaching:
            assert {rung.name for rung in rungs_for(cell)} <= set(FASTEST_FIRST)


def test_only():
    assert [r.name for r in rungs_for(Cell(BACKWARD, "float32", 64, 64, False), ["flash2", "mat"])] == [
        "flash2_backward"
    ]
    assert [r.name for r in rungs_for(Cell(MATMUL, "float32", 64), ["*registers"])] == ["matmul_registers"]
    assert not rungs_for(CELL, ["matmul"])


def test_csv_and_json(rows, tmp_path):
    write_csv(tmp_path / "rows.csv", rows)
    with (tmp_path / "rows.csv").open() as file:
        lines = {line["provider"]: line for line in csv.DictReader(file)}
    assert list(lines) == [row.provider for row in rows]
    ours = lines["flash2_forward"]
    assert (ours["milliseconds"], ours["times slow"], ours["times quick"]) == ("2.0", "4.0", "0.5")
    assert lines["flash1_forward"]["milliseconds"] == "" and lines["flash1_forward"]["refused"]
    write_json(tmp_path / "rows.json", rows, MACHINE, {"float32 product": 50.0})
    content = json.loads((tmp_path / "rows.json").read_text())
    assert content["machine"] == MACHINE and content["ceilings"] == {"float32 product": 50.0}
    assert [Row(**row) for row in content["rows"]] == rows


def test_svg(rows, tmp_path):
    pytest.importorskip("matplotlib")
    from numba_flash.bench.plot import write_svg

    softmax = replace(CELL, operation="softmax", d=None, causal=None)
    rows = rows + measure(softmax, contest(flash2_forward=RIGHT), 3000.0, clock)
    for name in ("one.svg", "two.svg"):
        write_svg(tmp_path / name, rows, "a title")
    text = (tmp_path / "one.svg").read_text()
    assert text == (tmp_path / "two.svg").read_text()
    for word in ("a title", "forward float32", "softmax float32", "flash2_forward", "d = 64", "N = 2048", "GB/s"):
        assert f"<!-- {word} -->" in text
    assert "<!-- flash1_forward -->" not in text


def test_readme(rows, tmp_path):
    file = tmp_path / "README.md"
    file.write_text("before\n<!-- speed -->\nold\n<!-- /speed -->\nafter\n")
    for _ in range(2):  # the second run replaces what the first one wrote
        write_readme(file, rows, describe(MACHINE), {"float32 product": 50.0})
    text = file.read_text()
    assert text.startswith("before\n<!-- speed -->\n") and text.endswith("\n<!-- /speed -->\nafter\n")
    assert "old" not in text and text.count("NVIDIA Fake 1, driver 1.2, CUDA 13.0, numba 0.6, 2026-01-02") == 1
    rate = by_provider(rows)["flash2_forward"].rate
    assert f"| forward float32 | 64 | 2048 | no | {rate:.1f} TFLOP/s | {rate / 4:.1f} |" in text
    assert "| flash1_forward | forward float32 | 64 | 2048 | no | - | - | - |" in text


def test_readme_tables_are_rectangular(rows):
    lines = [line for line in readme_tables(rows, "", {}).splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines[:3]}) == len({line.count("|") for line in lines[3:]}) == 1


def test_markers():
    assert has_markers("<!-- speed --> <!-- /speed -->")
    for text in (
        "",
        "<!-- /speed --> <!-- speed -->",
        "<!-- speed -->",
        "<!-- speed --> <!-- speed --> <!-- /speed -->",
    ):
        assert not has_markers(text)


def test_table(rows):
    table = table_of(rows)
    assert table.row_count == len(rows)


def test_ceilings(rows):
    assert command.ceilings(rows) == {"float32 product": pytest.approx(50)}


def test_file_name():
    assert file_name({"gpu": "NVIDIA H100 80GB HBM3"}) == "nvidia_h100_80gb_hbm3"


@pytest.mark.skipif(gpu_count() > 0, reason="a GPU's tests run the contests themselves")
class TestContests:
    """With NumPy in CuPy's place, and this package's CPU rungs."""

    @pytest.fixture(autouse=True)
    def numpy_for_cupy(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "cupy", np)
        monkeypatch.setattr(peers, "find_spec", lambda name: None)
        monkeypatch.setattr(contests, "find_spec", lambda name: None)

    @staticmethod
    def enter(operation, **size):
        (rung,) = (r for r in LADDER if r.operation == operation and not r.on_gpu)
        return rung.name, contests.contest(Cell(operation, "float32", **size), [rung])

    @pytest.mark.parametrize("causal", [False, True])
    @pytest.mark.parametrize("operation", [FORWARD, BACKWARD])
    def test_attention(self, operation, causal):
        name, found = self.enter(operation, N=40, d=64, causal=causal)
        for call in (found.ours[name], found.peers["CuPy formula"]):
            result = call()
            assert found.check(result).ok
            wrong = result if operation == FORWARD else result[-1]
            wrong[-1, -1] *= np.float32(1 + 1e-4)
            assert not found.check(result).ok

    @pytest.mark.parametrize("causal", [False, True])
    @pytest.mark.parametrize("operation", [FORWARD, BACKWARD])
    def test_torch(self, operation, causal, monkeypatch):
        pytest.importorskip("torch")
        monkeypatch.setattr(peers, "find_spec", {"torch": True}.get)
        _, found = self.enter(operation, N=40, d=128, causal=causal)
        assert found.check(found.peers["torch math"]()).ok
        assert list(found.peers) == ["CuPy formula", "torch efficient", "torch math"]

    def test_peers_with_heads_inside(self, monkeypatch):
        """flash_attn's arrays are (B, N, H, d), and FlashAttention-3 may give LSE too."""
        x = np.random.default_rng(0).standard_normal((3, 2, 4, 6, 8))

        class Tensor(np.ndarray):
            def transpose(self, *axes):
                return self.swapaxes(*axes)

        def flash_attn_func(q, k, v, causal):
            q, k, v = (a.swapaxes(1, 2) for a in (q, k, v))
            return reference.attention(q, k, v, causal=causal)[0].swapaxes(1, 2).view(Tensor), None

        monkeypatch.setitem(sys.modules, "fake", SimpleNamespace(flash_attn_func=flash_attn_func))
        o = peers.heads_inside("fake", True)(*x.view(Tensor))
        assert np.array_equal(o, reference.attention(*x, causal=True)[0])

    def test_matmul(self):
        name, found = self.enter(MATMUL, N=300)
        assert found.check(found.ours[name]()).ok and found.check(found.peers["cuBLAS"]()).ok
        assert not found.check(found.ours[name]() + np.float32(1e-2)).ok

    @pytest.mark.skipif(not any(r.operation == SOFTMAX for r in LADDER), reason="the ladder has no softmax")
    def test_softmax(self, monkeypatch):
        monkeypatch.setattr(contests, "SOFTMAX_ELEMENTS", 2**14)
        name, found = self.enter(SOFTMAX, N=50)
        assert found.check(found.ours[name]()).ok and found.check(found.peers["CuPy formula"]()).ok
        assert not found.check(found.ours[name]() * np.float32(1 + 1e-3)).ok

    def test_softmax_formula(self):
        x = np.random.default_rng(0).standard_normal((3, 50)).astype(np.float32)
        exact = reference.softmax(x.astype(np.float64))
        assert check([contests.softmax_formula(np, x)], [exact], [exact.astype(np.float32)], "float32").ok


class TestCommand:
    """The whole command, with fake contests and times on a machine that seems to have a GPU."""

    @pytest.fixture(autouse=True)
    def fake_gpu(self, monkeypatch):
        pytest.importorskip("matplotlib")
        monkeypatch.setattr(command, "SIMULATED", False)
        monkeypatch.setattr(command, "gpu_count", lambda: 1)
        monkeypatch.setattr(command, "free_memory", lambda: None)
        monkeypatch.setattr(command, "machine", lambda: MACHINE)
        monkeypatch.setattr(command, "copy_rate", lambda: 3000.0)
        monkeypatch.setattr(command, "product_rate", lambda dtype: 50.0)
        monkeypatch.setattr(command, "alternate", lambda jobs: dict.fromkeys(jobs, 1.0))
        monkeypatch.setattr(command, "contest", self.enter)
        self.wrong = ()

    def enter(self, cell, rungs, flex):
        return contest(**{r.name: RIGHT + (r.name in self.wrong) for r in rungs})

    def test_a_whole_run(self, tmp_path, capsys):
        readme = tmp_path / "README.md"
        readme.write_text("<!-- speed --><!-- /speed -->")
        assert main(["bench", str(tmp_path), "--json", str(tmp_path / "all.json"), "--readme", str(readme)]) == 0
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "README.md", "all.json", "nvidia_fake_1.csv", "nvidia_fake_1.svg",
        ]  # fmt: skip
        out = capsys.readouterr().out.replace("\n", "")
        assert all(str(path) in out for path in tmp_path.iterdir())
        timed = {row["provider"] for row in json.loads((tmp_path / "all.json").read_text())["rows"]}
        assert {rung.name for rung in LADDER if rung.on_gpu} <= timed

    def test_a_wrong_kernel_is_an_exit_status(self, tmp_path, capsys):
        self.wrong = ("flash2_forward",)
        readme = tmp_path / "README.md"
        readme.write_text("<!-- speed --><!-- /speed -->")
        assert main(["bench", str(tmp_path), "--json", str(tmp_path / "all.json"), "--readme", str(readme)]) == 1
        assert readme.read_text() == "<!-- speed --><!-- /speed -->"
        assert "wrong or unable: flash2_forward" in capsys.readouterr().out
        rows = json.loads((tmp_path / "all.json").read_text())["rows"]
        assert {row["provider"] for row in rows if row["milliseconds"] is None} == {"flash2_forward", "absent"}

    def test_a_partial_run_overwrites_nothing(self, capsys):
        assert main(["bench", "--only", "flash2", "--quick"]) == 0
        assert "no file (name a FOLDER)" in capsys.readouterr().out

    def test_whole_runs_go_to_the_checkout(self, monkeypatch):
        folder = command.folder_of(make_parser().parse_args(["bench"]))
        assert folder.parts[-2:] == ("examples", "benchmarks") and folder.is_dir()
        monkeypatch.setattr(command.numba_flash, "__file__", "/nowhere/numba_flash/__init__.py")
        assert "say which FOLDER" in command.why_not(make_parser().parse_args(["bench"]))

    @pytest.mark.parametrize(
        "arguments, message",
        [
            (["--only", "flash9"], "no kernel's name begins with flash9"),
            (["--quick", "--readme", "README.md"], "--readme needs a whole run"),
            (["--readme", "nowhere.md"], "nowhere.md needs the markers"),
        ],
    )
    def test_what_cannot_work(self, arguments, message, capsys):
        assert main(["bench", *arguments]) == 2
        out = capsys.readouterr().out
        assert message in out and out.count("\n") == 1

    def test_without_matplotlib(self, monkeypatch, capsys):
        monkeypatch.setattr(command, "find_spec", lambda name: None)
        assert main(["bench"]) == 2
        assert "pip install 'numba_flash[bench]'" in capsys.readouterr().out


def test_without_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(command, "gpu_count", lambda: 0)
    monkeypatch.setattr(command, "find_spec", lambda name: "matplotlib")
    assert main(["bench"]) == 2
    out = capsys.readouterr().out
    assert "needs an NVIDIA GPU" in out and out.count("\n") == 1


@pytest.mark.gpu
def test_a_quick_run(tmp_path):
    pytest.importorskip("matplotlib")
    assert main(["bench", "--quick", "--only", "flash2", "matmul_registers", "--json", str(tmp_path / "all.json")]) == 0
    rows = [Row(**row) for row in json.loads((tmp_path / "all.json").read_text())["rows"]]
    ours = [row for row in rows if not row.peer]
    assert {row.provider for row in ours} == {"flash2_forward", "flash2_backward", "matmul_registers"}
    assert all(row.milliseconds > 0 and row.of_ceiling < 1.2 and row.faster_than for row in ours)
