"""What softmax attention does to values, keys and scores, whatever they are."""

import numpy as np
from hypothesis import assume

from numba_flash import reference
from numba_flash.testing.naive import naive_attention
from numba_flash.testing.strategies import OPTIONS, POSITIONAL
from numba_flash.testing.tolerance import allowed_error, assert_close

from .agreement import assert_attention, assert_gradients, assert_same, visibility
from .for_all import for_all

BELOW_ONE = {"float16": 1 - 2.0**-11, "bfloat16": 1 - 2.0**-8}  # the largest number of this kind


@for_all()
def test_ones_give_ones(backend, case):
    """Rows of P sum to 1, and where P is rounded to 16 bits but its row sums are not, to a neighbour of 1."""
    x, options = case.arrays(), case.options()
    ones = np.ones_like(x.v)
    o, _ = backend.attention(x.q, x.k, ones, **options)
    sees = visibility(case, **options).any(axis=-1)[..., None]
    naive_o, _ = naive_attention(x.q, x.k, ones, **options)
    exact = np.where(sees, np.ones(o.shape), 0)
    assert_close(o, exact, [*naive_o, exact * BELOW_ONE.get(case.dtype, 1)], case.dtype, "o")


@for_all()
def test_output_is_within_the_range_of_v(backend, case):
    """P has no negative element."""
    x, options = case.arrays(), case.options()
    o, _ = backend.attention(x.q, x.k, x.v, **options)
    sees = visibility(case, **options)[..., None]
    v = reference.expand_heads(x.v.astype(np.float64), case.Hq)[..., None, :, :]
    low = np.where(sees, v, np.inf).min(axis=-2)
    high = np.where(sees, v, -np.inf).max(axis=-2)
    ref, naive = reference.attention(x.q, x.k, x.v, **options)[0], naive_attention(x.q, x.k, x.v, **options)[0]
    allowed = allowed_error(ref, naive, case.dtype)
    blind = ~sees.any(axis=-2)
    assert np.all((low - allowed <= o) & (o <= high + allowed) | blind)


@for_all()
def test_linear_in_v(backend, case):
    """attention(v + w) = attention(v) + attention(w), for integers, whose sums are exact."""
    x, options = case.arrays(), case.options()
    v, w = case.rng().integers(-9, 9, (2, *x.v.shape)).astype(case.dtype)
    parts = [backend.attention(x.q, x.k, values, **options)[0].astype(np.float64) for values in (v, w, v + w)]
    allowed = sum(
        allowed_error(
            reference.attention(x.q, x.k, values, **options)[0],
            naive_attention(x.q, x.k, values, **options)[0],
            case.dtype,
        )
        for values in (v, w, v + w)
    )
    assert np.abs(parts[0] + parts[1] - parts[2]).max() <= allowed


@for_all(options=OPTIONS - POSITIONAL)
def test_order_of_keys_does_not_matter(backend, case):
    """Permuting the pairs (K, V), with their bias and mask, permutes dK and dV and changes nothing else."""
    x, options = case.arrays(), case.options()
    order = case.rng().permutation(case.Nk)
    k, v = x.k[..., order, :], x.v[..., order, :]
    shuffled = {
        key: value[..., order] if key in ("bias", "mask") and value.shape[-1] > 1 else value
        for key, value in options.items()
    }
    o, lse, dq, dk, dv = backend.results(x.do, x.q, k, v, x.dlse, **shuffled)
    assert_attention((o, lse), case, x.q, x.k, x.v, **options)
    back = np.argsort(order)
    gradients = dq, dk[..., back, :], dv[..., back, :]
    assert_gradients(gradients, case, x.do, x.q, x.k, x.v, x.dlse, **options)


@for_all(options=OPTIONS - {"bias", "hidden_rows"})
def test_shifting_all_scores_moves_only_lse(backend, case):
    x, options = case.arrays(), case.options()
    shift = case.rng().choice([-1000.0, -3.0, 64.0, 20000.0])
    shifted = {**options, "bias": np.full((1, 1, 1, 1), shift, case.real)}
    o, lse = backend.attention(x.q, x.k, x.v, **shifted)
    ref_o, ref_lse = reference.attention(x.q, x.k, x.v, **options)
    naive_o, naive_lse = naive_attention(x.q, x.k, x.v, **shifted)
    assert_close(o, ref_o, naive_o, case.dtype, "o")
    assert_close(lse, ref_lse + shift, naive_lse, case.real, "lse")


@for_all(times=1 / 2)
def test_grouped_heads_are_repeated_heads(backend, case):
    """Query head h reads KV head h // (Hq // Hk), whose gradients are the sums over its query heads."""
    assume(case.Hk < case.Hq)
    assert_grouped(backend, case)


def assert_grouped(backend, case):
    x, options = case.arrays(), case.options()
    heads = [y.copy() for y in (x.k, x.v)]  # lying like those to compare: other kernels read other layouts
    copies = [reference.expand_heads(y, case.Hq) for y in heads]
    grouped, repeated = (
        backend.results(x.do, x.q, *kv, x.dlse, deterministic=True, **options) for kv in (heads, copies)
    )
    assert_same(grouped[:3], repeated[:3])
    assert_gradients(grouped[2:], case, x.do, x.q, x.k, x.v, x.dlse, **options)


@for_all()
def test_lse_normalizes_p(backend, case):
    """Rows of e^(S - LSE) sum to 1: LSE = log(sum(e^S)), in nats."""
    x, options = case.arrays(), case.options()
    _, lse = backend.attention(x.q, x.k, x.v, **options)
    s = reference.scores(*(y.astype(np.float64) for y in (x.q, x.k)), **options)
    allowed = allowed_error(reference.logsumexp(s), naive_attention(x.q, x.k, x.v, **options)[1], case.real)
    sees = np.isfinite(s).any(axis=-1)
    total = np.exp(s[sees] - lse[sees].astype(np.float64)[:, None]).sum(axis=-1)
    assert np.all(np.isneginf(lse[~sees]))
    assert np.all(np.abs(np.log(total)) <= allowed)
