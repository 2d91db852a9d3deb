"""The command: what it measures, writes and refuses, with fake contests and times; and a quick run on a GPU."""

import json

import pytest

from numba_flash.__main__ import main, make_parser
from numba_flash.bench import command
from numba_flash.bench.measure import Row
from numba_flash.ladder import LADDER
from tests.bench.fakes import MACHINE, RIGHT, contest


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
