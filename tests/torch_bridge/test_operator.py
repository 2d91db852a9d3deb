"""torch.compile, torch.export and tensors without numbers see attention as one operator, with the same results."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode

from numba_flash.torch import (
    flash_attention,
    flash_attn_func,
    flash_attn_kvpacked_func,
    flash_attn_qkvpacked_func,
    scaled_dot_product_attention,
)

from .helpers import assert_equal, gradients, normal

BACKEND = "aot_eager"  # dynamo and AOTAutograd, without a compiler
ROWS, KEYS, VALUES = (2, 4, 5, 6), (2, 2, 7, 6), (2, 2, 7, 3)
ATTENTION, ATTENTION_BACKWARD = torch.ops.numba_flash.attention, torch.ops.numba_flash.attention_backward
NO_OPTIONS = (None, None, None, False, None, None, None, None, None, "auto", False)


@pytest.fixture(autouse=True)
def nothing_compiled():
    """A test's torch.compile starts from nothing."""
    torch._dynamo.reset()


def every_option(device):
    """Keyword arguments of flash_attention, none at its default."""
    bias, slopes = (x.detach() for x in normal((5, 7), (4,), device=device, seed=3))
    mask = (torch.arange(35).reshape(5, 7) % 4 != 0).to(device)
    numbers = {"q_offset": 1, "window": (3, None), "scale": 0.3, "softcap": 2.0, "causal": True, "deterministic": True}
    return {"alibi_slopes": slopes, "bias": bias, "mask": mask, **numbers}


@pytest.mark.parametrize("some", [False, True], ids=["plain", "every option"])
def test_opcheck(device, some):
    q, k, v = normal(ROWS, KEYS, VALUES, device=device)
    x = every_option(device)
    options = (
        (x["alibi_slopes"], x["bias"], x["mask"], True, 1, 3, None, 0.3, 2.0, "auto", True) if some else NO_OPTIONS
    )
    torch.library.opcheck(ATTENTION.default, (q, k, v, *options))
    o, lse = (y.detach() for y in ATTENTION(q, k, v, *options))
    operands = [y.detach() for y in (o, q, k, v, o, lse)]
    torch.library.opcheck(ATTENTION_BACKWARD.default, (*operands, torch.ones_like(lse) if some else None, *options))


def with_lse(x, q, k, v):
    o, lse = flash_attention(q, k, v, **x, return_lse=True)
    return torch.cat([o, lse[..., None]], dim=-1)


def within_autocast(x, q, k, v):
    with torch.autocast(q.device.type, torch.bfloat16):
        return scaled_dot_product_attention(q, k, v, enable_gqa=True)


def kvpacked(x, q, k, v):
    return flash_attn_kvpacked_func(q.transpose(1, 2), torch.stack([k, v], dim=1).transpose(1, 3), causal=True)


def qkvpacked(x, q, k, v):
    k, v = (y[:, :, :5].repeat_interleave(2, dim=1) for y in (k, v))
    return flash_attn_qkvpacked_func(torch.stack([q, k, v], dim=2), causal=True, window_size=(2, -1))


CALLS = {
    "flash_attention": with_lse,
    "lse alone": lambda x, *qkv: flash_attention(*qkv, return_lse=True)[1],
    "mask": lambda x, *qkv: scaled_dot_product_attention(*qkv, attn_mask=x["mask"], enable_gqa=True),
    "is_causal": lambda x, q, k, v: scaled_dot_product_attention(q, k[:, :1], v[:1, :1], is_causal=True),
    "autocast": within_autocast,
    "flash_attn_func": lambda x, *qkv: flash_attn_func(*(y.transpose(1, 2) for y in qkv), softcap=1.5),
    "flash_attn_kvpacked_func": kvpacked,
    "flash_attn_qkvpacked_func": qkvpacked,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_compiled_is_eager(device, call):
    """Results, strides and gradients, without a graph break."""
    qkv, x = normal(ROWS, KEYS, KEYS, dtype=torch.float32, device=device), every_option(device)
    compiled = torch.compile(call, fullgraph=True, backend=BACKEND)
    found, expected = compiled(x, *qkv), call(x, *qkv)
    assert_equal([found], [expected])
    assert found.stride() == expected.stride()
    for y, z in zip(gradients(found, qkv), gradients(expected, qkv), strict=True):
        torch.testing.assert_close(y, z)
    with torch.no_grad():
        assert_equal([compiled(x, *qkv)], [expected])


def test_lengths_and_offsets_do_not_compile_anew(device):
    counter = CompileCounterWithBackend(BACKEND)
    step = torch.compile(
        lambda q, k, n: flash_attention(q, k, k, causal=True, q_offset=n), fullgraph=True, backend=counter
    )
    for n in (5, 6, 7, 9, 12):
        q, k = (x.detach() for x in normal((2, 3, n, 8), (2, 3, n + 2, 8), device=device))
        assert_equal([step(q, k, n)], [flash_attention(q, k, k, causal=True, q_offset=n)])
    assert counter.frame_count == 2  # for the first lengths, then for all


def test_errors_of_a_compiled_call():
    (q,) = normal(ROWS)
    compiled = torch.compile(lambda p: scaled_dot_product_attention(q, q, q, dropout_p=p), backend=BACKEND)
    with pytest.raises(ValueError, match="drops no weights"):
        compiled(0.1)


def test_export(device):
    class Layer(torch.nn.Module):
        def forward(self, q, k, v):
            return flash_attn_func(q, k, v, causal=True)

    q, k, v = (x.detach().transpose(1, 2) for x in normal(ROWS, KEYS, KEYS, device=device))
    program = torch.export.export(Layer(), (q, k, v))
    assert [node.target for node in program.graph.nodes].count(ATTENTION.default) == 1
    assert_equal([program.module()(q, k, v)], [Layer()(q, k, v)])


def test_tensors_without_numbers():
    """Shapes and dtypes, with gradients."""
    q, k, v = (
        torch.empty(shape, device="meta", dtype=torch.float16, requires_grad=True) for shape in (ROWS, KEYS, VALUES)
    )
    o, lse = flash_attention(q, k, v, return_lse=True)
    assert (o.device.type, o.shape, o.dtype) == ("meta", (*ROWS[:-1], 3), torch.float16)
    assert (lse.shape, lse.dtype) == (ROWS[:-1], torch.float32)
    with FakeTensorMode():
        q = torch.empty(ROWS, dtype=torch.float64, requires_grad=True)
        o, lse = flash_attention(q, q, q, return_lse=True)
        (dq,) = torch.autograd.grad(o.sum(), [q])
        assert (o.shape, lse.dtype, dq.shape) == (ROWS, torch.float64, ROWS)


def test_subclasses_of_tensors(device):
    """A parameter as an operand."""
    q, k, v = normal(ROWS, KEYS, KEYS, device=device)
    parameter = torch.nn.Parameter(q.detach())
    o, expected = (flash_attention(x, k, v, deterministic=True) for x in (parameter, q))
    assert_equal(gradients(o, [parameter, k, v]), gradients(expected, [q, k, v]))
    (dq,) = torch.autograd.grad(flash_attention(parameter, k, v).sum(), [parameter], create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        dq.sum().backward()
