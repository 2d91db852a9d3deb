"""What the ladder says about work: visible pairs and flops."""

import itertools
import re
from pathlib import Path

import pytest

import numba_flash
from numba_flash import reference
from numba_flash.__main__ import main
from numba_flash.config import Device
from numba_flash.info import ladder_markdown
from numba_flash.ladder import LADDER
from numba_flash.matmul_problem import MatmulProblem
from numba_flash.problem import AttentionProblem, visible_pairs
from numba_flash.softmax_problem import SoftmaxProblem
from numba_flash.tiling import band


def attention_problem(Nq, Nk, **visibility):
    rule = {"causal": False, "q_offset": Nk - Nq, "window": None, **visibility}
    first, last = band(Nq, Nk, **rule)
    return AttentionProblem(2, 6, 3, Nq, Nk, 8, 4, "float32", scale=1.0, first=first, last=last)


def test_visible_pairs():
    for Nq, Nk, causal, q_offset in itertools.product((1, 4, 5), (1, 3, 6), (False, True), (-7, -2, 0, 3, 9)):
        for window in (None, (1, 0), (None, 2), (2, None)):
            rule = {"causal": causal, "q_offset": q_offset, "window": window}
            expected = 2 * 6 * reference.visible(Nq, Nk, **rule).sum()
            assert visible_pairs(attention_problem(Nq, Nk, **rule)) == expected


@pytest.mark.parametrize("rung", LADDER, ids=lambda rung: rung.name)
def test_flops(rung):
    if rung.operation == "matmul":
        assert rung.flops(MatmulProblem(3, 4, 5, 6, "float32", "float32")) == 2 * 3 * 4 * 5 * 6
        return
    if rung.operation == "softmax":
        assert rung.flops(SoftmaxProblem(3, 4, 7, "float32")) == 5 * 3 * 4 * 7
        return
    products = {"flash_attention": 8 + 4, "flash_attention_backward": 3 * 8 + 2 * 4}
    full, causal = attention_problem(5, 5), attention_problem(5, 5, causal=True)
    assert rung.flops(full) == 2 * 12 * 25 * products[rung.operation]
    assert rung.flops(causal) == 2 * 12 * 15 * products[rung.operation]


def test_architectures():
    assert [Device("", cc, 0).arch for cc in ((7, 5), (8, 0), (8, 9), (9, 0))] == ["sm_75", "sm_80", "sm_89", "sm_90a"]


def test_the_readme_shows_the_ladder():
    readme = (Path(numba_flash.__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    _, shown, _ = re.split("<!-- /?ladder -->\n", readme)
    assert shown == f"{ladder_markdown()}\n", "python -m numba_flash info --ladder prints what belongs there"
    assert all(f"[{rung.name}]" in shown for rung in LADDER if rung.on_gpu)


def test_the_command_prints_the_ladder(capsys):
    assert main(["info", "--ladder"]) == 0
    assert capsys.readouterr().out == f"{ladder_markdown()}\n"
