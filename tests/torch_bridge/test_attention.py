"""flash_attention for tensors: numba_flash's numbers, torch's gradients, nothing saved in vain, errors that say why."""

import doctest
import math
from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch
from properties.for_all import for_all
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

import numba_flash
from numba_flash.testing import backends
from numba_flash.torch import attention, flash_attention, flash_attn, sdpa

from .helpers import STRIDES, assert_equal, gradients, normal, tensor

ROWS, KEYS = (2, 4, 5, 6), (2, 2, 7, 6)  # q; k and v


def place_of(backend):
    """The device of tensors for a backend."""
    if backend is backends.GPU and not torch.cuda.is_available():
        pytest.skip("torch finds no GPU")
    return "cuda" if backend is backends.GPU else "cpu"


def as_tensors(device, values):
    """The NumPy arrays among some values as tensors."""
    return [tensor(x, device) if isinstance(x, np.ndarray) else x for x in values]


@for_all(times=2 / 3, layouts=STRIDES, max_rows=9, max_depth=7, max_scores=128)
def test_numbers_are_those_of_numba_flash(backend, case):
    """Forward and backward, for every option, dtype and layout; in eager mode and as an operator of the dispatcher."""
    x, device, options = case.arrays(), place_of(backend), case.options()
    options = dict(zip(options, as_tensors(device, options.values()), strict=True))
    q, k, v, do, dlse = as_tensors(device, (x.q, x.k, x.v, x.do, x.dlse))
    o, lse = numba_flash.flash_attention(q, k, v, **options, return_lse=True, kernel=backend.kernel)
    expected = numba_flash.flash_attention_backward(
        do, q, k, v, o, lse, **options, dlse=dlse, deterministic=True, kernel=backend.kernel
    )
    for recorded in (False, True):
        leaves = [y.detach().requires_grad_() for y in (q, k, v)]
        with mock.patch.object(attention, "recorded", lambda q, answer=recorded: answer):
            results = flash_attention(*leaves, **options, return_lse=True, deterministic=True, kernel=backend.kernel)
        assert_equal(results, (o, lse))
        outputs, incoming = (results[:1], [do]) if dlse is None else (results, [do, dlse])
        assert_equal(torch.autograd.grad(outputs, leaves, incoming), expected)


def bent(score, b, h, i, j):
    x = 0.7 * math.tanh(score) + 0.1 * (i - j)
    return x * x if h == 1 else x


GRADCHECK = {
    "plain": {},
    "causal": {"causal": True},
    "window": {"window": (1, 1), "q_offset": 0},
    "softcap": {"softcap": 0.7, "scale": -0.4},
    "ALiBi": {"alibi_slopes": torch.tensor([0.1, 0.4], dtype=torch.float64)},
    "bias": {"bias": torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4)},
    "mask": {"mask": torch.arange(12).reshape(3, 4) % 3 != 0},
    "mods": {"score_mod": bent, "mask_mod": lambda b, h, i, j: (i + j + h) % 3 != 1},
}


@pytest.mark.parametrize("options", GRADCHECK.values(), ids=GRADCHECK)
def test_gradcheck(device, options):
    """Derivatives of o and of lse, with two query heads on a KV head."""
    moved = {key: x.to(device) if isinstance(x, torch.Tensor) else x for key, x in options.items()}

    def attend(q, k, v):
        return flash_attention(q, k, v, **moved, return_lse=True, deterministic=True)

    assert torch.autograd.gradcheck(attend, normal((1, 2, 3, 3), (1, 1, 4, 3), (1, 1, 4, 2), device=device))


def test_mods_that_cannot_be():
    """A graph has no place for one; who asks for gradients hears at once of one that has none."""

    def several(score, b, h, i, j):
        x, y = score, score
        return x * y

    qkv = normal(ROWS, KEYS, KEYS)
    with torch.no_grad():
        assert flash_attention(*qkv, score_mod=several).shape == ROWS
    with pytest.raises(ValueError, match="no derivative is known of several variables at once"):
        flash_attention(*qkv, score_mod=several)
    with mock.patch.object(attention, "recorded", lambda q: True), pytest.raises(ValueError, match="in a graph"):
        flash_attention(*qkv, mask_mod=lambda b, h, i, j: i > j)


attend = partial(flash_attention, deterministic=True)  # equal calls give equal bits on a GPU, too


class TestGradients:
    @pytest.fixture
    def qkv(self, device):
        return normal(ROWS, KEYS, KEYS, device=device)

    def test_of_a_sum(self, qkv):
        """Its gradient of o is one number with strides of 0."""
        ours = torch.autograd.grad(attend(*qkv).sum(), qkv)
        o = attend(*qkv)
        assert_equal(ours, torch.autograd.grad(o, qkv, torch.ones_like(o)))

    def test_of_lse_alone(self, qkv):
        o, lse = attend(*qkv, return_lse=True)
        ours = torch.autograd.grad(lse.sum(), qkv, retain_graph=True)
        both = torch.autograd.grad((o, lse), qkv, (torch.zeros_like(o), torch.ones_like(lse)))
        assert_equal(ours, both)
        assert ours[0].abs().max() > 0 and not ours[2].any()

    @pytest.mark.parametrize("wanted", range(3), ids="qkv".__getitem__)
    def test_of_one_operand(self, qkv, wanted):
        expected = gradients(attend(*qkv), qkv)[wanted]
        alone = [x.detach().requires_grad_(n == wanted) for n, x in enumerate(qkv)]
        assert_equal(gradients(attend(*alone), alone[wanted : wanted + 1]), [expected])

    def test_of_an_operand_in_two_roles(self, device):
        (x,) = normal(ROWS, device=device)
        copies = [x.detach().clone().requires_grad_() for _ in range(3)]
        (ours,) = gradients(attend(x, x, x), [x])
        torch.testing.assert_close(ours, sum(gradients(attend(*copies), copies)))

    def test_of_an_expanded_operand(self, qkv):
        """Heads that are one head by a stride of 0 get the sum."""
        q, k, v = qkv
        one = k[:, :1].detach().requires_grad_()
        (ours,) = gradients(attend(q, one.expand_as(k), v), [one])
        k = one.detach().expand_as(k).contiguous().requires_grad_()
        torch.testing.assert_close(ours, gradients(attend(q, k, v), [k])[0].sum(dim=1, keepdim=True))

    def test_of_a_checkpointed_call(self, qkv):
        recomputed = checkpoint(attend, *qkv, causal=True, use_reentrant=False)
        assert_equal(gradients(recomputed, qkv), gradients(attend(*qkv, causal=True), qkv))

    def test_cannot_be_differentiated_again(self, qkv):
        """Even where the incoming gradient depends on nothing, and the second derivative would be lost."""
        o = attend(*qkv)
        (dq,) = torch.autograd.grad(o.sum(), qkv[:1], create_graph=True)
        assert_equal([dq.detach()], torch.autograd.grad(attend(*qkv).sum(), qkv[:1]))
        with pytest.raises(RuntimeError, match="cannot be differentiated again"):
            (o.sum() + dq.square().sum()).backward()

    @pytest.mark.parametrize("recorded", [False, True])
    @pytest.mark.parametrize("deterministic", [False, True])
    def test_deterministic_reaches_the_backward_pass(self, qkv, recorded, deterministic):
        calls = mock.patch.object(numba_flash, "flash_attention_backward", wraps=numba_flash.flash_attention_backward)
        with calls as spy, mock.patch.object(attention, "recorded", lambda q: recorded):
            flash_attention(*qkv, deterministic=deterministic).sum().backward()
            heads_last = [x.transpose(1, 2) for x in qkv]
            flash_attn.flash_attn_func(*heads_last, deterministic=deterministic).sum().backward()
        assert [call.kwargs["deterministic"] for call in spy.call_args_list] == [deterministic] * 2

    def test_see_changes_in_place(self, qkv):
        mask = torch.ones(5, 7, dtype=torch.bool, device=qkv[0].device)
        o = attend(*qkv, mask=mask)
        mask[0] = False
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            o.sum().backward()

    @pytest.mark.gpu
    def test_on_a_stream(self):
        """Forward and backward run on the stream that is current for the forward call."""
        if not torch.cuda.is_available():
            pytest.skip("torch finds no GPU")
        qkv = normal((2, 4, 500, 64), (2, 4, 500, 64), (2, 4, 500, 64), dtype=torch.float32, device="cuda")
        expected = gradients(attend(*qkv), qkv)
        torch.cuda.synchronize()
        with torch.cuda.stream(stream := torch.cuda.Stream()):
            torch.cuda._sleep(10**8)
            late = [x.clone() for x in qkv]  # numbers that no other stream waits for
            found = gradients(attend(*late), qkv)
        stream.synchronize()
        assert_equal(found, expected)


class TestSaving:
    """What stays in memory until the backward pass."""

    def saved(self, call):
        kept = []
        with saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
            call()
        return kept

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_nothing_without_grad_mode(self, device, mode):
        qkv, bias = normal(ROWS, KEYS, KEYS, device=device), normal((5, 7), device=device)[0]
        with mode():
            assert not self.saved(lambda: flash_attention(*qkv, bias=bias))
            assert flash_attention(*qkv).grad_fn is None

    def test_nothing_without_operands_that_want_gradients(self, device):
        qkv = [x.detach() for x in normal(ROWS, KEYS, KEYS, device=device)]
        assert not self.saved(lambda: flash_attention(*qkv))

    def test_operands_results_and_options(self, device):
        q, k, v = normal(ROWS, KEYS, KEYS, device=device)
        kept = self.saved(lambda: flash_attention(q, k, v))
        assert [tuple(x.shape) for x in kept] == [ROWS, KEYS, KEYS, ROWS, ROWS[:-1]]
        bias = torch.zeros(5, 7, device=device)
        kept = self.saved(lambda: flash_attention(q, k, v, bias=bias))
        assert len(kept) == 6 and kept[-1].data_ptr() == bias.data_ptr()

    def test_no_second_copy_of_the_output_of_flash_attn(self, device):
        q, k, v = normal((2, 5, 4, 6), (2, 7, 2, 6), (2, 7, 2, 6), device=device)
        out = []
        kept = self.saved(lambda: out.append(flash_attn.flash_attn_func(q, k, v)))
        assert len(kept) == 5 and out[0].data_ptr() == kept[3].data_ptr()


class TestErrors:
    def test_operands_that_are_no_tensors(self):
        q, k, v = normal(ROWS, KEYS, KEYS)
        with pytest.raises(TypeError, match=r"^flash_attention: k is ndarray \(needs a torch\.Tensor\)\.$"):
            flash_attention(q, k.detach().numpy(), v)
        with pytest.raises(TypeError, match=r"^flash_attention: bias is float \(needs a torch\.Tensor or None\)\.$"):
            flash_attention(q, k, v, bias=1.0)

    @pytest.mark.parametrize(("option", "shape"), [("bias", (5, 7)), ("alibi_slopes", (4,))])
    def test_options_that_want_gradients(self, option, shape):
        q, k, v, x = normal(ROWS, KEYS, KEYS, shape)
        message = (
            rf"^flash_attention: {option} requires grad, .* Pass {option}\.detach\(\), or call under torch\.no_grad"
        )
        for leaves in ((q, k, v), (q.detach(), k.detach(), v.detach())):
            with pytest.raises(ValueError, match=message):
                flash_attention(*leaves, **{option: x})

    def test_a_kernel_without_a_gradient(self):
        q, k, v = normal(ROWS, KEYS, KEYS)
        with pytest.raises(ValueError, match="no flash_attention_backward kernel 'cpu_forward'"):
            flash_attention(q, k, v, kernel="cpu_forward")
        with torch.no_grad():
            assert_equal([flash_attention(q, k, v, kernel="cpu_forward")], [flash_attention(q, k, v, kernel="cpu")])

    def test_all_others_are_those_of_numba_flash(self):
        q, k, v = normal(ROWS, KEYS, (2, 2, 8, 6))
        with pytest.raises(ValueError, match=r"^flash_attention: softcap=-1 .*; k has 7 keys, v has 8\.$"):
            flash_attention(q, k, v, softcap=-1)


@pytest.mark.parametrize("module", [attention, flash_attn, sdpa], ids=lambda module: module.__name__)
def test_doctests(module):
    result = doctest.testmod(module)
    assert result.attempted > 4 and result.failed == 0
