"""Both passes against the definition, over sizes that straddle blocks and every way to make a score."""

import numpy as np
import pytest

from .problems import Problem

B_ = 96  # the block
DTYPES = ["float32", "float64"]


def rng(seed=1):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("Nq, Nk", [(1, 1), (5, 7), (17, 2), (B_, B_), (B_ - 1, B_ + 1), (2 * B_ + 1, 3), (1, 401)])
def test_lengths(dtype, Nq, Nk):
    Problem(Nq=Nq, Nk=Nk, dtype=dtype).check()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d, dv", [(1, 1), (3, 40), (64, 64), (65, 2), (31, 129), (300, 7)])
def test_head_sizes(dtype, d, dv):
    Problem(d=d, dv=dv, dtype=dtype).check()


@pytest.mark.parametrize("Hq, Hk", [(1, 1), (6, 2), (4, 1), (3, 3)])
def test_groups_of_heads(Hq, Hk):
    Problem(B=2, Hq=Hq, Hk=Hk).check()


@pytest.mark.parametrize("first, last", [(-400, 0), (-400, 34), (-30, 30), (0, 0), (-250, -120), (100, 150), (3, -3)])
@pytest.mark.parametrize("Nq, Nk", [(250, 210), (110, 310)])
def test_bands(first, last, Nq, Nk):
    Problem(Nq=Nq, Nk=Nk, first=first, last=last).check()


CORNERS = [(-B_ + 2, 0), (-B_ + 1, 0), (0, B_ - 2), (0, B_ - 1), (0, B_), (B_ - 1, 2 * B_), (-2 * B_, 1 - B_)]


@pytest.mark.parametrize("first, last", CORNERS)
def test_bands_with_an_edge_at_the_corner_of_a_tile(first, last):
    Problem(Nq=2 * B_, Nk=2 * B_, first=first, last=last).check()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [0.0, -0.3, 30.0, -1e3, 1e-30])
def test_scales(dtype, scale):
    Problem(scale=scale, dtype=dtype).check()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("softcap", [0.5, 30.0])
def test_softcap(dtype, softcap):
    Problem(softcap=softcap, scale=2.0, dtype=dtype, last=20).check()


@pytest.mark.parametrize("q_offset", [0, 34, -1000])
def test_alibi(q_offset):
    Problem(Hq=4, alibi_slopes=np.float32([[0.5, 0.25, 0.0, -0.01]]), q_offset=q_offset).check()


def test_bias():
    Problem(Hq=2, bias=rng().standard_normal((1, 2, 97, 131), np.float32), last=30).check()


def test_bias_broadcasts():
    bias = np.broadcast_to(rng().standard_normal((2, 1, 1, 131), np.float32), (2, 2, 97, 131))
    Problem(B=2, Hq=2, bias=bias).check()


def test_mask():
    Problem(B=2, Hq=2, mask=rng().random((2, 2, 97, 131)) < 0.3).check()


def test_mask_broadcasts():
    Problem(B=2, Hq=2, mask=np.broadcast_to(rng().random((97, 131)) < 0.3, (2, 2, 97, 131)), last=10).check()


def test_everything_at_once():
    Problem(
        B=2, Hq=4, Hk=2, Nq=230, Nk=170, d=20, dv=12, first=-150, last=20, scale=-0.4, softcap=3.0, q_offset=-7,
        alibi_slopes=rng().random((2, 4), np.float32), bias=rng().standard_normal((2, 4, 230, 170), np.float32),
        mask=rng().random((2, 4, 230, 170)) < 0.8,
    ).check()  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_logits(dtype):
    problem = Problem(dtype=dtype, scale=1.0)
    problem.q *= 1e4 / np.abs(problem.q @ problem.k.swapaxes(-1, -2)).max()
    problem.check()


def test_equal_logits():
    problem = Problem()
    problem.k[...] = problem.k[:, :, :1]
    problem.check()


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_of_lse(dtype):
    problem = Problem(dtype=dtype, last=0)
    problem.dlse = rng().standard_normal(problem.q.shape[:3]).astype(dtype)
    problem.check_backward()


def test_directional_derivative():
    softcap, scale = 2.0, 0.7
    problem = Problem(dtype="float64", Hq=4, Hk=2, Nq=50, Nk=61, d=7, dv=5, last=20, softcap=softcap, scale=scale)
    problem.dlse = rng().standard_normal(problem.q.shape[:3])
    gradients = problem.backward()
    steps = [rng(seed).standard_normal(x.shape) for seed, x in enumerate((problem.q, problem.k, problem.v))]

    def loss(t):
        moved = Problem(dtype="float64", Hq=4, Hk=2, Nq=50, Nk=61, d=7, dv=5, last=20, softcap=softcap, scale=scale)
        moved.q, moved.k, moved.v = (x + t * dx for x, dx in zip((problem.q, problem.k, problem.v), steps, strict=True))
        o, lse = moved.forward()
        return (problem.do * o).sum() + (problem.dlse * lse).sum()

    h = 1e-4
    fourth_order = (8 * (loss(h) - loss(-h)) - (loss(2 * h) - loss(-2 * h))) / (12 * h)
    along = sum((g * dx).sum() for g, dx in zip(gradients, steps, strict=True))
    assert abs(fourth_order - along) < 1e-9 * abs(along)
