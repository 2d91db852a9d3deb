"""(LSE, O) with merge is a commutative monoid, so keys may be attended to in parts."""

import numpy as np

from numba_flash import arrays, reference
from numba_flash.rungs.passes import merge as merge_pass
from numba_flash.runtime import launch
from numba_flash.testing.backends import SIMULATOR
from numba_flash.testing.naive import naive_attention
from numba_flash.testing.tolerance import assert_close

from .agreement import assert_same
from .for_all import for_all


def part(case, options, begin, end):
    """The options of attention to keys begin <= j < end."""
    options = {**options, "q_offset": options.get("q_offset", case.Nk - case.Nq) - begin}
    for key in {"bias", "mask"} & set(options):
        x = options[key]
        options[key] = x if x.shape[-1] == 1 else x[..., begin:end]
    return options


def merged(backend, o1, lse1, o2, lse2):
    """By the public operation; in the simulator by the kernel that this starts on a GPU."""
    if backend is not SIMULATOR:
        return backend.merge(o1, lse1, o2, lse2)
    B, Hq, Nq, dv = o1.shape
    flat = [arrays.read(x.reshape(B * Hq, Nq, *[dv] * (x.ndim == 4))) for x in (o1, lse1, o2, lse2)]
    o, lse = (arrays.empty(x, x.shape, x.dtype) for x in flat[:2])
    for what in merge_pass.launches(*flat, o, lse):
        launch(what)
    return o.data.reshape(o1.shape), lse.data.reshape(lse1.shape)


def naive_parts(x, case, options, cut):
    """The naive O and LSE of all keys, and those merged from naive parts: LSE's rounding is in the weights of these."""
    whole = naive_attention(x.q, x.k, x.v, **options)
    if cut in (0, case.Nk):
        return whole
    parts = [
        naive_attention(x.q, x.k[..., a:b, :], x.v[..., a:b, :], **part(case, options, a, b))
        for a, b in ((0, cut), (cut, case.Nk))
    ]
    several = min(len(o) for o, _ in parts)  # evaluations: the smaller part has more
    merged = reference.merge(*(x[:several] for each in parts for x in each))
    return tuple(np.concatenate([one, other.astype(one.dtype)]) for one, other in zip(whole, merged, strict=True))


@for_all()
def test_merged_parts_are_the_whole(backend, case):
    x, options = case.arrays(), case.options()
    cut = case.rng().integers(case.Nk + 1)
    left, right = (
        backend.attention(x.q, x.k[..., a:b, :], x.v[..., a:b, :], **part(case, options, a, b))
        for a, b in ((0, cut), (cut, case.Nk))
    )
    o, lse = merged(backend, *left, *right)
    ref_o, ref_lse = reference.attention(x.q, x.k, x.v, **options)
    naive_o, naive_lse = naive_parts(x, case, options, cut)
    assert_close(o, ref_o, naive_o, case.dtype, "o")
    assert_close(lse, ref_lse, naive_lse, case.real, "lse")
    assert_close(merged(backend, *right, *left)[0], ref_o, naive_o, case.dtype, "o, merged the other way round")


@for_all()
def test_attention_to_nothing_is_the_identity(backend, case):
    x, options = case.arrays(), case.options()
    o, lse = backend.attention(x.q, x.k, x.v, **options)
    nothing = np.zeros_like(o), np.full_like(lse, -np.inf)
    assert_same(merged(backend, o, lse, *nothing), (o, lse))
