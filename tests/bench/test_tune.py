"""The command that looks for the fastest tile sizes: candidates, their kernels, and the order of the table."""

import pytest

from numba_flash.__main__ import main
from numba_flash.bench import tune
from numba_flash.bench.candidates import SPACES
from numba_flash.bench.cells import Cell
from numba_flash.bench.checks import Check
from numba_flash.bench.measure import Contest
from numba_flash.config import device_of_arch
from numba_flash.ladder import MATMUL

H100 = device_of_arch("sm_90")


def cell_of(name, d=64):
    rung = tune.named(name)
    return Cell(rung.operation, rung.usual_dtype, 4096, None if rung.operation == MATMUL else d)


@pytest.mark.parametrize("name", SPACES)
def test_candidates_differ_and_make_kernels(name):
    rung, cell = tune.named(name), cell_of(name)
    candidates = list(SPACES[name].candidates(tune.specimen_of(cell)))
    assert len(set(candidates)) == len(candidates) > 5
    of_each = [tune.compiled(rung, cell, H100, tiles) for tiles in [None, *candidates]]
    assert of_each[0]
    made = [tiles for tiles, jobs in zip(candidates, of_each[1:], strict=True) if jobs]
    assert len(made) > 5
    configs = {kernel.config[0] for jobs in of_each for kernel, _, _ in jobs}
    assert set(made) <= configs


@pytest.mark.parametrize("d", [64, 128])
@pytest.mark.parametrize("name", SPACES)
def test_the_present_choice_is_a_candidate(name, d):
    cell = cell_of(name, d)
    launched = tune.compiled(tune.named(name), cell, H100, None)
    configs = {kernel.config[0] for kernel, _, _ in launched}
    candidates = list(SPACES[name].candidates(tune.specimen_of(cell)))
    assert any(same_but_for_full(config, tiles) for config in configs for tiles in candidates)


def same_but_for_full(a, b):
    """Do two choices make the same kernel?"""
    return type(a) is type(b) and str(a).replace("full=False", "full=True") == str(b).replace("full=False", "full=True")


def test_a_choice_ends_with_its_block():
    rung, cell = tune.named("flash2_mma_forward"), cell_of("flash2_mma_forward")
    now = tune.compiled(rung, cell, H100, None)
    tiles = next(t for t in SPACES[rung.name].candidates(tune.specimen_of(cell)) if t != now[0][0].config[0])
    with tune.chosen(rung, tiles):
        assert tune.compiled(rung, cell, H100, None)[0][0].config[0] == tiles
    assert tune.compiled(rung, cell, H100, None) == now


def test_a_choice_is_checked_before_it_is_timed(monkeypatch):
    rung = tune.named("flash2_forward")
    right, wrong = Check(1.0, 2.0, 0.1), Check(3.0, 2.0, 0.1)
    monkeypatch.setattr(tune, "milliseconds", lambda job: 7.0)

    def tried(check):
        return tune.looked_at(rung, None, 99, Contest({rung.name: lambda: "o"}, {}, check))

    def refuse(result):
        raise RuntimeError("too many resources\nof a block")

    assert tried(lambda o: right).milliseconds == 7.0
    assert tried(lambda o: wrong).refused == "wrong: error 3 > 2" and tried(lambda o: wrong).milliseconds is None
    assert tried(refuse).refused == "too many resources"


def test_the_table_has_the_fastest_the_present_and_the_wrong():
    cell = cell_of("flash2_forward")
    several = [tune.Tried(f"tiles {n}", 100, n + 1.0) for n in range(tune.FINALISTS + 5)]
    tried = [*several, tune.Tried(None, 90, 50.0), tune.Tried("bad", 80, refused="wrong")]
    names = list(tune.table_of(tune.named("flash2_forward"), cell, tried).columns[0].cells)
    assert names == [f"tiles {n}" for n in range(tune.FINALISTS)] + ["those of now", "bad"]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (["softmax_safe"], "no tile sizes to choose for 'softmax_safe'"),
        (["flash2_mma_forward", "--dtype", "float32"], "takes float16, bfloat16, not float32"),
        (["flash2_forward"], "needs an NVIDIA GPU"),
    ],
)
def test_what_cannot_be_tuned_says_why(monkeypatch, capsys, line, why):
    monkeypatch.setattr(tune, "gpu_count", lambda: 0)
    assert main(["tune", *line]) == tune.UNUSABLE
    assert why in capsys.readouterr().out


@pytest.mark.gpu
def test_on_a_gpu(monkeypatch, capsys):
    few = SPACES["matmul_mma"].candidates
    monkeypatch.setattr(
        tune, "SPACES", {"matmul_mma": SPACES["matmul_mma"].__class__("CONFIGS", lambda p: [*few(p)][:3])}
    )
    assert main(["tune", "matmul_mma", "--length", "512"]) == 0
    assert "those of now" in capsys.readouterr().out
