"""Calls on CUDA tensors that were made before: the short way looks at all that a plan depends on."""

import numpy as np
import pytest

from numba_flash import flash_attention, flash_attention_backward, reference
from numba_flash.planners import forget_plans
from numba_flash.shortcut import SHORTCUTS

pytestmark = pytest.mark.gpu

torch = pytest.importorskip("torch")


def tensors(*shape, seed=0):
    """q, k, v and do of one shape."""
    random = np.random.default_rng(seed)
    return [torch.tensor(random.standard_normal(shape), dtype=torch.float32, device="cuda") for _ in range(4)]


def assert_right(got, expected):
    for x, y in zip(got, expected, strict=True):
        np.testing.assert_allclose(x.cpu().numpy(), y, rtol=1e-4, atol=1e-5)


def assert_all_right(q, k, v, do, **options):
    """o, lse and gradients are those of the definition."""
    x = [a.cpu().numpy() for a in (do, q, k, v)]
    o, lse = flash_attention(q, k, v, return_lse=True, **options)
    assert_right((o, lse), reference.attention(*x[1:], **options))
    assert_right(flash_attention_backward(do, q, k, v, o, lse, **options), reference.attention_vjp(*x, **options))


@pytest.fixture(autouse=True)
def _tensors_were_met_and_no_plans_are_left():
    flash_attention(*tensors(1, 8, 8)[:3])
    forget_plans()
    yield
    forget_plans()


def test_other_tensors_of_the_same_kind():
    for seed in range(3):
        assert_all_right(*tensors(2, 40, 64, seed=seed))
        assert len(SHORTCUTS) == 2


def test_strides_offsets_and_options_are_told_apart():
    q, k, v, do = tensors(2, 40, 64)
    assert_all_right(q, k, v, do)
    assert_all_right(q, k.mT.contiguous().mT, v, do)
    assert_all_right(q, k, v, do.flip(0)[:, ::1])
    assert_all_right(q, k, v, do, causal=True)
    assert_all_right(q, k, v, do, causal=True, q_offset=3)
    aside = torch.empty(q.numel() + 1, device="cuda")[1:].view_as(q).copy_(q)  # on no multiple of 16 bytes
    assert_all_right(aside, k, v, do)
    assert len(SHORTCUTS) == 10  # a reversed copy is like the first


def test_negated_views_are_read_as_what_they_mean():
    q, k, v, do = tensors(2, 40, 64)
    assert_all_right(q, k, v, do)
    negated = torch.complex(torch.zeros_like(q), -q).conj().imag
    assert negated.is_neg()
    assert_right([flash_attention(negated, k, v)], [flash_attention(q, k, v).cpu().numpy()])


def test_a_tensor_that_requires_grad_is_refused_all_the_same():
    q, k, v, _ = tensors(2, 40, 64)
    o = flash_attention(q, k, v)
    q.requires_grad_()
    with pytest.raises(TypeError, match="requires grad"):
        flash_attention(q, k, v)
    with torch.no_grad():
        assert torch.equal(flash_attention(q, k, v), o)


def test_what_was_made_while_no_gradient_was_asked_for_serves_others():
    q, k, v, do = tensors(2, 40, 64)
    with torch.inference_mode():
        flash_attention(q, k, v)
    assert not flash_attention(q, k, v).is_inference()
    assert_all_right(q, k, v, do)
