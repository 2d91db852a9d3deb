"""A script, run where numba compiles: kernels with mods, and the rules that they break, one line each.

A heavy pair of mods for every kernel, and a light mod for those that take their largest tiles with it.
"""

import math
from dataclasses import replace

from numba_flash.compiled import DEVICES, Variant, inspect_launch, launches_of
from numba_flash.ladder import LADDER
from numba_flash.mods import read_mod
from numba_flash.problem import ScoreOptions
from numba_flash.specimen import specimen

SLOPES, OFFSETS, SHOWS_ALL = (0.5, 0.25, 0.125, 0.0625), (3, -1, 0, 2), (True, False, True, False)
KERNELS = {
    "flash2_forward": "float32",
    "flash2_backward": "float32",
    "flash2_mma_forward": "float16",
    "flash2_mma_backward": "bfloat16",
    "flash3_forward": "bfloat16",
    "flash3_backward": "bfloat16",
}


def score_mod(score, b, h, i, j):
    capped = 20.0 * math.tanh(score / 20) - 0.1 * abs(i - j)
    return capped if i > j + OFFSETS[-1 - h] else score * SLOPES[h]


def mask_mod(b, h, i, j):
    return i - j <= 256 or SHOWS_ALL[h]


def alibi(score, b, h, i, j):
    return score - 0.5 ** (h + 1) * (i - j)


def main():
    """Compile for Hopper."""
    heavy, light = options(score_mod, mask_mod), options(alibi)
    for rung in LADDER:
        if rung.name in KERNELS:
            inspect(rung, heavy, "heavy")
        if rung.name in ("flash3_forward", "flash3_backward"):
            inspect(rung, light, "light")


def options(score_mod, mask_mod=None):
    return ScoreOptions(
        score_mod=read_mod("score_mod", score_mod, differentiated=True), mask_mod=read_mod("mask_mod", mask_mod)
    )


def inspect(rung, mods, weight):
    problem = replace(specimen(rung.operation, KERNELS[rung.name], d=128, N=256), score=mods)
    for n, launch in enumerate(launches_of(rung.name, problem, DEVICES["sm_90"])):
        if launch.kernel.page == rung.name:
            variant = Variant(rung.name, launch.kernel.name, "sm_90", problem, n)
            print(weight, launch.kernel.name, *inspect_launch(launch, variant)[1], sep=": ", flush=True)


if __name__ == "__main__":
    main()
