"""The command: what it measures, writes and refuses, with fake contests and times; and a quick run on a GPU."""

import json
import re
from dataclasses import replace

import pytest

from numba_flash.__main__ import main, make_parser
from numba_flash.bench import command, peers, plots
from numba_flash.bench.contests import counts
from numba_flash.bench.measure import Row
from numba_flash.bench.results import PARTS, read_folder
from numba_flash.bench.style import Picture
from numba_flash.ladder import LADDER

from .fakes import COLD_ROWS, HOST_ROWS, MACHINE, RIGHT, contest

FLASH2 = {"flash2_forward", "flash2_backward"}


class TestCommand:
    """The whole command, with fake contests and times on a machine that seems to have a GPU."""

    @pytest.fixture(autouse=True)
    def fake_gpu(self, monkeypatch):
        monkeypatch.setattr(command, "SIMULATED", False)
        monkeypatch.setattr(command, "gpu_count", lambda: 1)
        monkeypatch.setattr(command, "free_memory", lambda: None)
        monkeypatch.setattr(command, "machine", lambda: MACHINE)
        monkeypatch.setattr(peers, "missing", lambda module: "no" * module.startswith("flash_attn.flash"))
        monkeypatch.setattr(command, "copy_rate", lambda: 3000.0)
        monkeypatch.setattr(command, "product_rate", lambda dtype: {"float32": 50.0}.get(dtype, 60.0))
        monkeypatch.setattr(command, "alternate", lambda jobs: dict.fromkeys(jobs, 1.0))
        monkeypatch.setattr(command, "compile_ahead", lambda cells, patterns, say: None)
        monkeypatch.setattr(command, "contest", self.enter)
        monkeypatch.setattr(command, "host_jobs", lambda dtypes, peers: self.asked.append((dtypes, peers)))
        monkeypatch.setattr(command, "host_rows", lambda jobs, compare, clock: HOST_ROWS[:2])
        monkeypatch.setattr(command, "cold_rows", lambda todo, repetitions, say: COLD_ROWS)
        monkeypatch.setattr(command, "write_plots", self.draw)
        monkeypatch.setattr(command, "find_spec", lambda name: "matplotlib")
        self.wrong, self.asked = (), []

    def draw(self, folder, results):
        """A text of what there is to draw, in a picture's place."""
        picture = Picture("Parts", folder / "light.svg", folder / "dark.svg")
        for path in picture[1:]:
            path.write_text(str([(result.part, result.rows) for result in results]))
        return [picture]

    def enter(self, cell, rungs, patterns):
        self.asked.append((cell, patterns))
        found = contest(**{r.name: RIGHT + (r.name in self.wrong) for r in rungs})
        return replace(found, counts=counts(cell, rungs))

    def read(self, path):
        return {part: content["rows"] for part, content in json.loads(path.read_text()).items()}

    def test_a_whole_run(self, tmp_path, capsys, monkeypatch):
        pytest.importorskip("matplotlib")
        monkeypatch.setattr(command, "write_plots", plots.write_plots)
        readme = tmp_path / "README.md"
        readme.write_text("<!-- speed --><!-- /speed -->")
        assert main(["bench", str(tmp_path), "--json", str(tmp_path / "all.json"), "--readme", str(readme)]) == 0
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "README.md", "all.json", "nvidia_fake_1_cold.csv", "nvidia_fake_1_host.csv", "nvidia_fake_1_ladder.csv",
            "nvidia_fake_1_lengths.csv", "nvidia_fake_1_lengths_bfloat16_dark.svg",
            "nvidia_fake_1_lengths_bfloat16_light.svg", "nvidia_fake_1_roofline_dark.svg",
            "nvidia_fake_1_roofline_light.svg",
        ]  # fmt: skip
        out = capsys.readouterr().out
        assert all(str(path) in out for path in tmp_path.iterdir())
        rows = self.read(tmp_path / "all.json")
        assert {rung.name for rung in LADDER if rung.on_gpu} <= {row["provider"] for row in rows["ladder"]}
        limits = {row["provider"]: row["rate"] for row in rows["ladder"] if row["operation"] == "ceiling"}
        assert limits == {
            "copy": 3000,
            "float32 product": 50,
            "float64 product": 60,
            "bfloat16 product": 60,
        }
        assert {row["of_ceiling"] for row in rows["ladder"] if row["dtype"] == "float64" and row["of_ceiling"]}
        facts = json.loads((tmp_path / "all.json").read_text())["host"]["machine"]
        assert facts == MACHINE | {"absent": "flash_attn"}
        section = readme.read_text()
        for text in ("nvidia_fake_1_roofline_light.svg", "matmul_naive", "torch SDPA", "import numba_flash"):
            assert text in section

    def test_parts_one_by_one_are_the_same_as_all_together(self, tmp_path, capsys):
        for name in ("all", "parts"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "README.md").write_text("<!-- speed --><!-- /speed -->")
        assert main(["bench", str(tmp_path / "all"), "--readme", str(tmp_path / "all" / "README.md")]) == 0
        for part in ("cold", "host", "ladder", "lengths"):
            assert main(["bench", "--part", part, str(tmp_path / "parts")]) == 0
        report = ["bench", "--part", "report", str(tmp_path / "parts"), "--readme"]
        assert main([*report, str(tmp_path / "parts" / "README.md")]) == 0
        found = [sorted((tmp_path / name).iterdir()) for name in ("all", "parts")]
        assert [path.name for path in found[0]] == [path.name for path in found[1]]
        for one, other in zip(*found, strict=True):
            if one.suffix != ".csv":
                assert one.read_bytes() == other.read_bytes(), one.name

    def test_a_part_that_is_stopped_leaves_those_before(self, tmp_path, monkeypatch):
        def stop(todo, repetitions, say):
            raise KeyboardInterrupt

        monkeypatch.setattr(command, "cold_rows", stop)
        folder = tmp_path / "new"
        with pytest.raises(KeyboardInterrupt):
            main(["bench", str(folder)])
        assert sorted(path.name for path in folder.iterdir()) == [
            "nvidia_fake_1_host.csv", "nvidia_fake_1_ladder.csv", "nvidia_fake_1_lengths.csv",
        ]  # fmt: skip
        assert all(result.rows for result in read_folder(folder))

    def test_a_wrong_kernel_is_an_exit_status(self, tmp_path, capsys):
        self.wrong = ("flash2_forward",)
        readme = tmp_path / "README.md"
        readme.write_text("<!-- speed --><!-- /speed -->")
        assert main(["bench", str(tmp_path), "--json", str(tmp_path / "all.json"), "--readme", str(readme)]) == 1
        assert readme.read_text() == "<!-- speed --><!-- /speed -->"
        out = capsys.readouterr().out
        assert "wrong or unable: flash2_forward" in out and "README.md stays as it is" in out
        rows = self.read(tmp_path / "all.json")["ladder"]
        untimed = {row["provider"] for row in rows if row["milliseconds"] is None and row["operation"] != "ceiling"}
        assert untimed == {"flash2_forward", "absent"}

    def test_a_partial_result_stays_out_of_the_readme(self, tmp_path, capsys):
        readme = tmp_path / "README.md"
        readme.write_text("<!-- speed --><!-- /speed -->")
        assert main(["bench", str(tmp_path), "--part", "ladder", "--quick"]) == 0
        assert main(["bench", str(tmp_path), "--part", "host", "--readme", str(readme)]) == 0
        assert readme.read_text() == "<!-- speed --><!-- /speed -->"
        assert "are not whole" in capsys.readouterr().out

    def test_choices_reach_what_is_measured(self, capsys):
        assert main(["bench", "--dtype", "bfloat16,float16", "--peers", "cupy", "--part", "lengths,host"]) == 0
        *contests, host = self.asked
        assert {cell.dtype for cell, _ in contests} == {"bfloat16", "float16"}
        assert {tuple(patterns) for _, patterns in contests} == {("cupy",)}
        assert host == (["bfloat16", "float16"], ["cupy"])

    @pytest.mark.parametrize("arguments", [["--only", "flash2"], ["--quick"], ["--peers", "cupy"]])
    def test_a_partial_run_overwrites_nothing(self, arguments, capsys):
        assert main(["bench", *arguments]) == 0
        assert "no file (name a FOLDER)" in capsys.readouterr().out

    def test_kernels_are_chosen_for_two_parts(self, tmp_path):
        assert main(["bench", "--only", "flash2,softmax_o", "--only", "matmul_n", "--json", str(tmp_path / "j")]) == 0
        rows = self.read(tmp_path / "j")
        ours = {part: {row["provider"] for row in rows[part] if not row["peer"]} for part in rows}
        assert ours == {
            "ladder": {*FLASH2, "flash2_mma_forward", "flash2_mma_backward", "softmax_online", "matmul_naive"},
            "lengths": {"flash2_mma_forward", "flash2_mma_backward"},
        }

    def test_whole_runs_go_to_the_checkout(self, monkeypatch):
        folder = command.folder_of(make_parser().parse_args(["bench"]))
        assert folder.parts[-2:] == ("examples", "benchmarks") and folder.is_dir()
        monkeypatch.setattr(command.numba_flash, "__file__", "/nowhere/numba_flash/__init__.py")
        assert "say which FOLDER" in command.why_not(make_parser().parse_args(["bench"]))

    @pytest.mark.parametrize(
        "arguments, message",
        [
            (["--only", "flash9"], "no kernel's name begins with flash9"),
            (["--only", "flash2", "--part", "cold"], "--only is for the parts ladder and lengths"),
            (["--dtype", "float32,int8"], "--dtype int8: there are float16, bfloat16, float32, float64"),
            (["--part", "everything"], "--part everything: there are ladder, lengths, host, cold, report"),
            (["--quick", "--readme", "README.md"], "--readme needs a whole run"),
            (["--peers", "cupy", "--readme", "README.md"], "--readme needs a whole run"),
            (["--readme", "nowhere.md"], "nowhere.md needs the markers"),
            (["nowhere", "--part", "report"], "nowhere needs results of one machine, and has those of none"),
        ],
    )
    def test_what_cannot_work(self, arguments, message, capsys):
        assert main(["bench", *arguments]) == 2
        out = capsys.readouterr().out
        assert message in out and out.count("\n") == 1

    def test_peers_that_are_none_or_absent(self, monkeypatch, capsys):
        assert main(["bench", "--peers", "nobody"]) == 2
        assert "no peer's name begins with nobody (there are CuPy formula, " in capsys.readouterr().out
        monkeypatch.setattr(peers, "missing", lambda module: "" if module == "cupy" else "ImportError: why")
        assert main(["bench", "--peers", "flex"]) == 2
        out = capsys.readouterr().out
        assert "no peer here for flex (ImportError: why); importable are CuPy formula, cuBLAS" in out

    def test_a_strange_file_in_the_folder(self, tmp_path, capsys):
        (tmp_path / "old_ladder.csv").write_text("what\n1\n")
        assert main(["bench", str(tmp_path), "--part", "host"]) == 2
        assert "is no result of this version's bench: move it away" in capsys.readouterr().out

    def test_without_matplotlib(self, monkeypatch, tmp_path, capsys):
        monkeypatch.setattr(command, "find_spec", lambda name: None)
        assert main(["bench", str(tmp_path)]) == 2
        assert "pip install 'numba_flash[bench]'" in capsys.readouterr().out
        assert main(["bench", "--quick"]) == 0  # which draws nothing


class TestWithoutAGpu:
    """The parts that need none, and one clear line for the others."""

    @pytest.fixture(autouse=True)
    def no_gpu(self, monkeypatch):
        monkeypatch.setattr(command, "gpu_count", lambda: 0)
        monkeypatch.setattr(command, "find_spec", lambda name: "matplotlib")

    @pytest.mark.parametrize("arguments", [[], ["--part", "host"], ["--part", "cold,ladder"]])
    def test_without_a_gpu(self, arguments, capsys):
        assert main(["bench", *arguments]) == 2
        out = capsys.readouterr().out
        assert "needs an NVIDIA GPU" in out and out.count("\n") == 1

    def test_cold_starts(self, monkeypatch, tmp_path, capsys):
        monkeypatch.setattr(command, "cold_rows", lambda todo, repetitions, say: self.rows(todo))
        assert main(["bench", "--part", "cold", "--json", str(tmp_path / "cold.json")]) == 0
        assert "no file" not in capsys.readouterr().out
        rows = json.loads((tmp_path / "cold.json").read_text())["cold"]["rows"]
        assert [row["what"] for row in rows][:2] == ["import numpy", "import numba_flash"]
        assert not any(start.gpu for start in self.todo)

    def rows(self, todo):
        self.todo = todo
        return [replace(COLD_ROWS[0], what=start.what) for start in todo]


def test_help_says_how_long_each_part_takes(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    out = capsys.readouterr().out
    for part in (*PARTS, command.REPORT):
        assert re.search(rf"^  {part} .*(minutes?|seconds)", out, re.MULTILINE)


@pytest.mark.gpu
def test_a_quick_run(tmp_path):
    arguments = ["--quick", "--only", "flash2,matmul_registers", "--json", str(tmp_path / "all.json")]
    assert main(["bench", *arguments]) == 0
    for part in ("ladder", "lengths"):
        rows = [Row(**row) for row in json.loads((tmp_path / "all.json").read_text())[part]["rows"]]
        ours = [row for row in rows if not row.peer]
        passes, mode = ("forward", "backward"), "flash2_mma_backward, deterministic"
        of_lengths = {mode, *(f"flash2_mma_{name}" for name in passes)}
        of_ladder = {"matmul_registers", *(f"flash2_{name}" for name in passes)}
        assert {row.provider for row in ours} == (of_ladder if part == "ladder" else of_lengths)
        assert all(row.milliseconds > 0 and row.of_ceiling < 1.2 and row.faster_than for row in ours)
        assert all(row.operations and row.bytes for row in ours if row.provider != mode)
