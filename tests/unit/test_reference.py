"""The definition against loops over scalars, the laws of merge, and gradients against finite differences and torch."""

import math

import numpy as np
import pytest

from numba_flash import reference

from .helpers import assert_same, normal

Hq, Hk, Nq, Nk, D, DV = 4, 2, 4, 5, 3, 2

OPTIONS = [
    {},
    {"scale": 0.0},
    {"scale": -1.5},
    {"causal": True},
    {"causal": True, "q_offset": 0},
    {"causal": True, "q_offset": -2},
    {"q_offset": 3},
    {"window": (1, 0)},
    {"window": (None, 1), "q_offset": 0},
    {"window": (2, None), "q_offset": 5},
    {"window": (0, 2), "causal": True},
    {"softcap": 0.7},
    {"alibi_slopes": normal(1, Hq)},
    {"alibi_slopes": normal(2, 2, 1), "q_offset": -3},
    {"bias": normal(3, Nq, Nk)},
    {"bias": np.where(normal(4, 2, Hq, Nq, Nk) > 0.5, -np.inf, 1.0)},
    {"mask": normal(5, 2, 1, 1, Nk) > 0},
    {"mask": np.zeros((Nq, Nk), bool)},
    {"mask": normal(6, Hq, Nq, Nk) > 0, "causal": True},
    {
        "causal": True, "q_offset": 2, "window": (2, 1), "scale": 0.8, "softcap": 1.3, "alibi_slopes": normal(7, Hq),
        "bias": normal(8, Hq, 1, Nk), "mask": normal(9, 2, Hq, Nq, Nk) > -1,
    },
]  # fmt: skip


def named(options):
    return ",".join(options) or "plain"


def operands(seed=0):
    """q, k, v of two batch entries."""
    return normal(seed, 2, Hq, Nq, D), normal(seed + 1, 2, Hk, Nk, D), normal(seed + 2, 2, Hk, Nk, DV)


def score(q, k, i, j, *, slope=None, bias=None, mask=None, causal=False, q_offset=None, window=None, scale=None,
          softcap=None):  # fmt: skip
    """One score from one query and one key, or -inf; bias and mask are those of one head."""
    at = i + (Nk - Nq if q_offset is None else q_offset)
    left, right = window or (None, None)
    hidden = (
        (causal and j > at)
        or (left is not None and j < at - left)
        or (right is not None and j > at + right)
        or (mask is not None and not mask[i][j])
    )
    if hidden:
        return -math.inf
    s = math.fsum(x * y for x, y in zip(q, k, strict=True)) * (1 / math.sqrt(D) if scale is None else scale)
    s = s if softcap is None else softcap * math.tanh(s / softcap)
    s = s if slope is None else s - slope * abs(at - j)
    return s if bias is None else s + bias[i][j]


def attention_by_loops(q, k, v, **options):
    """O and LSE from Python's own arithmetic, one query at a time."""
    O, LSE = np.zeros((2, Hq, Nq, DV)), np.zeros((2, Hq, Nq))
    shapes = {"alibi_slopes": (2, Hq), "bias": (2, Hq, Nq, Nk), "mask": (2, Hq, Nq, Nk)}
    whole = {name: np.broadcast_to(options.pop(name), shapes[name]) for name in shapes if name in options}
    for b, h, i in np.ndindex(2, Hq, Nq):
        hk = h * Hk // Hq
        own = {"slope" if name == "alibi_slopes" else name: x[b, h] for name, x in whole.items()}
        s = [score(q[b, h, i], k[b, hk, j], i, j, **own, **options) for j in range(Nk)]
        weights = [math.exp(x) for x in s]
        total = math.fsum(weights)
        LSE[b, h, i] = math.log(total) if total else -math.inf
        for c in range(DV):
            weighted = math.fsum(w * v[b, hk, j, c] for j, w in enumerate(weights))
            O[b, h, i, c] = weighted / total if total else 0.0
    return O, LSE


@pytest.mark.parametrize("options", OPTIONS, ids=named)
def test_attention_is_what_loops_over_scalars_say(options):
    q, k, v = operands()
    O, LSE = reference.attention(q, k, v, **options)
    O_loops, LSE_loops = attention_by_loops(q, k, v, **options)
    assert_same(O, O_loops)
    assert_same(LSE, LSE_loops)


def test_softmax_of_rows_without_a_number():
    x = np.array([[-np.inf, -np.inf], [-np.inf, 3.0], [1e4, 1e4]])
    assert np.array_equal(reference.softmax(x), [[0, 0], [0, 1], [0.5, 0.5]])
    assert np.array_equal(reference.logsumexp(x), [-np.inf, 3, 1e4 + math.log(2)])
    assert np.array_equal(reference.logsumexp(np.zeros((2, 0))), [-np.inf, -np.inf])
    assert reference.softmax(np.zeros((2, 0))).shape == (2, 0)


def test_softmax_is_finite_where_the_exponential_overflows():
    x = 800 * normal(0, 20, 7)
    assert_same(reference.softmax(x).sum(axis=-1), np.ones(20))
    assert_same(reference.softmax(x), reference.softmax(x - 900))


def test_no_keys_and_no_queries():
    q, k, v = np.zeros((2, 3, D)), np.zeros((1, 0, D)), np.zeros((1, 0, DV))
    O, LSE = reference.attention(q, k, v)
    assert np.array_equal(O, np.zeros((2, 3, DV))) and np.array_equal(LSE, np.full((2, 3), -np.inf))
    O, LSE = reference.attention(q[:, :0], np.zeros((1, 4, D)), np.zeros((1, 4, DV)))
    assert O.shape == (2, 0, DV) and LSE.shape == (2, 0)


class TestMerge:
    """(LSE, O) with merge is a commutative monoid with identity (-inf, 0)."""

    @staticmethod
    def partial(seed):
        """A partial result of six rows, some of which saw nothing, one of which saw very large scores."""
        rng = np.random.default_rng(seed)
        o, lse = rng.standard_normal((6, DV)), rng.standard_normal(6) * rng.choice([1, 30])
        lse[rng.random(6) < 0.3] = -np.inf
        lse[5] += 1e4
        o[np.isneginf(lse)] = 0
        return o, lse

    @pytest.mark.parametrize("seed", range(20))
    def test_laws(self, seed):
        a, b, c = (self.partial(100 * seed + n) for n in range(3))
        for x, y in (
            (reference.merge(*reference.merge(*a, *b), *c), reference.merge(*a, *reference.merge(*b, *c))),
            (reference.merge(*a, *b), reference.merge(*b, *a)),
        ):
            assert_same(x[0], y[0], magnitude=1e4)
            assert_same(x[1], y[1])

    def test_identity(self):
        o, lse = self.partial(1)
        nothing = np.zeros_like(o), np.full_like(lse, -np.inf)
        for merged in (reference.merge(o, lse, *nothing), reference.merge(*nothing, o, lse)):
            assert np.array_equal(merged[0], o) and np.array_equal(merged[1], lse)

    @pytest.mark.parametrize("options", OPTIONS, ids=named)
    def test_any_split_of_the_keys(self, options):
        q, k, v = operands()
        options = {"q_offset": Nk - Nq, **options}  # a default would follow the number of keys
        whole = reference.attention(q, k, v, **options)
        for cut in range(Nk + 1):
            parts = [reference.attention(q, k[:, :, keys], v[:, :, keys], **only(options, keys))
                     for keys in (slice(0, cut), slice(cut, Nk))]  # fmt: skip
            merged = reference.merge(*parts[0], *parts[1])
            assert_same(merged[0], whole[0])
            assert_same(merged[1], whole[1])


def only(options, keys):
    """The options of attention over some of the keys."""
    rest = {name: x[..., keys] if name in ("bias", "mask") and x.shape[-1] > 1 else x for name, x in options.items()}
    return rest | {"q_offset": options["q_offset"] - keys.start}


def derivative(f, x):
    """The gradient of a scalar function by central differences of fourth order."""
    g, h = np.zeros_like(x), 1e-3
    for at in np.ndindex(x.shape):
        value = {}
        for n in (-2, -1, 1, 2):
            moved = x.copy()
            moved[at] += n * h
            value[n] = f(moved)
        g[at] = (8 * (value[1] - value[-1]) - (value[2] - value[-2])) / (12 * h)
    return g


@pytest.mark.parametrize("options", OPTIONS, ids=named)
def test_gradients_are_finite_differences(options):
    q, k, v = operands(10)
    do, dlse = normal(20, 2, Hq, Nq, DV), normal(21, 2, Hq, Nq)

    def loss(q, k, v):
        O, LSE = reference.attention(q, k, v, **options)
        return (do * O).sum() + (dlse * np.where(np.isneginf(LSE), 0, LSE)).sum()

    gradients = reference.attention_vjp(do, q, k, v, dlse, **options)
    differences = (
        derivative(lambda x: loss(x, k, v), q),
        derivative(lambda x: loss(q, x, v), k),
        derivative(lambda x: loss(q, k, x), v),
    )
    for actual, expected in zip(gradients, differences, strict=True):
        # rounding of the loss, eps/h, and truncation, h^4, are both near 1e-12
        assert np.abs(actual - expected).max() <= 1e-10 * max(1, np.abs(expected).max())


def test_gradients_without_dlse_are_those_of_a_zero_dlse():
    q, k, v = operands()
    do = normal(3, 2, Hq, Nq, DV)
    for x, y in zip(
        reference.attention_vjp(do, q, k, v),
        reference.attention_vjp(do, q, k, v, np.zeros((2, Hq, Nq))),
        strict=True,
    ):
        assert np.array_equal(x, y)


TORCH_OPTIONS = [
    ({}, {}),
    ({"scale": 0.3}, {"scale": 0.3}),
    ({"causal": True, "q_offset": 0}, {"is_causal": True}),  # torch's causal mask is the top-left one
    ({"bias": normal(1, 2, Hq, Nq, Nk)}, {"attn_mask": normal(1, 2, Hq, Nq, Nk)}),
    ({"mask": normal(2, Hq, Nq, Nk) > -1}, {"attn_mask": normal(2, Hq, Nq, Nk) > -1}),
]


@pytest.mark.parametrize(("options", "torch_options"), TORCH_OPTIONS, ids=lambda options: named(options))
def test_torch_agrees(options, torch_options):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    q, k, v = operands()
    do = normal(3, 2, Hq, Nq, DV)
    tensors = [torch.from_numpy(x).requires_grad_() for x in (q, k, v)]
    extra = {name: torch.from_numpy(x) if isinstance(x, np.ndarray) else x for name, x in torch_options.items()}
    o = torch.nn.functional.scaled_dot_product_attention(*tensors, enable_gqa=True, **extra)
    o.backward(torch.from_numpy(do))
    assert_same(reference.attention(q, k, v, **options)[0], o.detach().numpy())
    for actual, tensor in zip(reference.attention_vjp(do, q, k, v, **options), tensors, strict=True):
        assert_same(actual, tensor.grad.numpy())
