"""Calls on a GPU, up to the driver: a machine of NumPy and the simulator takes the place of CuPy and the chip."""

import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

import numpy as np
import pytest

import numba_flash
from numba_flash import flash_attention, flash_attention_backward, matmul, merge, reference, shortcut, softmax
from numba_flash.planners import forget_plans
from numba_flash.runtime import gpu
from numba_flash.shortcut import SHORTCUTS
from numba_flash.simulator import SIMULATED
from numba_flash.testing.tiles import longest_sum, tiny_tiles

from .fake_gpu import FakeArray, fake_gpu

pytestmark = pytest.mark.skipif(not SIMULATED, reason="kernels run on a real GPU")


@pytest.fixture
def machine():
    with tiny_tiles(), longest_sum(1000), fake_gpu() as machine:
        yield machine


def operands(machine, *lead, Hq=4, Hk=2, Nq=11, Nk=13, d=8, dv=6, dtype=np.float32, seed=0):
    """q, k, v on the machine."""
    random = np.random.default_rng(seed)
    shapes = (*lead, Hq, Nq, d), (*lead, Hk, Nk, d), (*lead, Hk, Nk, dv)
    return [machine.asarray(random.standard_normal(shape).astype(dtype)) for shape in shapes]


def on_host(*arrays):
    """The same in host memory."""
    return [np.array(x).view(np.ndarray) for x in arrays]


def assert_like_the_cpu(machine, function, arrays, outputs=None, **options):
    """A call on the machine gives what the CPU path gives."""
    got = function(*arrays, **options)
    expected = function(*on_host(*arrays), **options, kernel="cpu")
    for x, y in zip(np.atleast_1d(got) if isinstance(got, FakeArray) else got, expected, strict=True):
        assert isinstance(x, FakeArray) and x.dtype == y.dtype and x.shape == y.shape
        np.testing.assert_allclose(*on_host(x, y), rtol=1e-4, atol=1e-5 if x.dtype.itemsize > 2 else 1e-2)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_forward_and_backward(machine, dtype):
    q, k, v = operands(machine, 2, dtype=dtype)
    o, lse = flash_attention(q, k, v, causal=True, return_lse=True)
    assert_like_the_cpu(machine, flash_attention, (q, k, v), causal=True, return_lse=True)
    do = machine.asarray(np.random.default_rng(9).standard_normal(o.shape).astype(dtype))
    for deterministic in (False, True):
        options = {"causal": True, "deterministic": deterministic}
        assert_like_the_cpu(machine, flash_attention_backward, (do, q, k, v, o, lse), **options)


def test_lse_that_nobody_asked_for_lies_behind_the_output(machine):
    q, k, v = operands(machine, dv=32)
    o, lse = flash_attention(q, k, v, return_lse=True)
    count = len(machine.allocated)
    alone = flash_attention(q, k, v)
    (memory,) = machine.allocated[count:]
    assert np.array_equal(alone, o) and alone.nbytes + lse.nbytes <= memory.size < 1.3 * alone.nbytes
    assert np.array_equal(memory[-256:].view(np.float32)[: lse.size], lse.ravel())


def test_larger_scratch_is_let_go(machine):
    q, k, v = operands(machine, dv=1)
    count = len(machine.allocated)
    o = flash_attention(q, k, v)
    results, scratch = machine.allocated[count:]
    assert np.shares_memory(o.view(np.ndarray), results) and 4 * 11 * 4 <= scratch.size < 8 * results.size


def test_views_are_read_in_place(machine):
    q, k, v = operands(machine, 3, Hq=2)
    q, k, v = q.swapaxes(1, 2)[:, ::2].swapaxes(1, 2), k[..., ::-1, :], v[..., ::-1, :]
    count = len(machine.allocated)
    assert_like_the_cpu(machine, flash_attention, (q, k, v), return_lse=True)
    assert len(machine.allocated) == count + 2


def test_groups_that_do_not_fold(machine):
    q, k, v = (x.swapaxes(0, 1) for x in operands(machine, 2, 3))
    assert_like_the_cpu(machine, flash_attention, (q, k, v), return_lse=True)
    assert len(machine.launched) == 3  # one for each of the axes that no stride joins


def test_score_options(machine):
    q, k, v = operands(machine)
    random = np.random.default_rng(4)
    options = {
        "softcap": 2.0,
        "alibi_slopes": random.random(4).astype(np.float32),
        "bias": random.standard_normal((11, 13)).astype(np.float32),
        "mask": random.random((4, 1, 13)) < 0.7,
    }
    o, lse = flash_attention(
        q, k, v, return_lse=True, **{key: machine.asarray(x) if key != "softcap" else x for key, x in options.items()}
    )
    expected = flash_attention(*on_host(q, k, v), return_lse=True, kernel="cpu", **options)
    for x, y in zip((o, lse), expected, strict=True):
        np.testing.assert_allclose(*on_host(x, y), rtol=1e-4, atol=1e-5)


def test_a_plan_serves_other_arrays(machine):
    for seed in range(3):
        q, k, v = operands(machine, seed=seed)
        o = flash_attention(q, k, v, window=(3, 1))
        expected, _ = reference.attention(*on_host(q, k, v), window=(3, 1))
        np.testing.assert_allclose(*on_host(o, expected), rtol=1e-4, atol=1e-5)
    assert machine.loaded == 1 and len(machine.launched) == 3


def test_one_array_may_be_every_operand(machine):
    """Addresses are not what a plan tells operands apart by."""
    (x,) = operands(machine, Hk=4, d=8)[:1]
    y = machine.asarray(np.array(x) * 2)
    for q, k, v in ((x, x, x), (x, y, x), (x, x, y)):
        expected, _ = reference.attention(*on_host(q, k, v))
        np.testing.assert_allclose(*on_host(flash_attention(q, k, v), expected), rtol=1e-4, atol=1e-5)
    assert machine.loaded == 1


def test_rows_that_do_not_start_on_16_bytes_have_a_plan_of_their_own(machine):
    padded = machine.asarray(np.random.default_rng(0).standard_normal((4, 11, 12)).astype(np.float32))
    for shift in (0, 1, 4):
        x = padded[..., shift : shift + 8]
        expected, _ = reference.attention(*on_host(x, x, x))
        np.testing.assert_allclose(*on_host(flash_attention(x, x, x), expected), rtol=1e-4, atol=1e-5)
    assert machine.loaded == 2


def test_nothing_to_see(machine):
    q, k, v = operands(machine, Nk=0)
    o, lse = flash_attention(q, k, v, return_lse=True)
    assert not o.any() and np.array_equal(lse, np.full(lse.shape, -np.inf)) and not machine.launched
    dq, dk, dv = flash_attention_backward(o, q, k, v, o, lse)
    assert not dq.any() and dk.size == dv.size == 0
    assert not flash_attention(q, k, v).any()


def test_merge_softmax_matmul(machine):
    q, k, v = operands(machine)
    left, right = (flash_attention(q, k[:, s], v[:, s], return_lse=True) for s in (slice(5), slice(5, None)))
    o, lse = merge(*left, *right)
    whole = flash_attention(q, k, v, return_lse=True)
    for x, y in zip((o, lse), whole, strict=True):
        np.testing.assert_allclose(*on_host(x, y), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(*on_host(softmax(q), reference.softmax(*on_host(q))), rtol=1e-4)
    for a, b in ((q, q[0].swapaxes(0, 1)), (q[0, 0], q.swapaxes(1, 2))):
        product = np.matmul(*on_host(a, b))
        np.testing.assert_allclose(*on_host(matmul(a, b), product), rtol=1e-4, atol=1e-5)


def test_host_arrays_are_copied_there_and_back(machine):
    q, k, v = on_host(*operands(machine))
    o, lse = flash_attention(q, k, v, return_lse=True)
    assert type(o) is type(lse) is np.ndarray and machine.launched
    expected = reference.attention(q, k, v)
    for x, y in zip((o, lse), expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
    dq, dk, dv = flash_attention_backward(np.ones_like(o), q, k, v, o, lse)
    assert all(type(x) is np.ndarray for x in (dq, dk, dv))


def test_launches_are_on_the_current_stream(machine):
    q, k, v = operands(machine)
    flash_attention(q, k, v)
    assert machine.launched == [(5, "flash2_forward")] and machine.notes == []


def test_a_stream_waits_for_the_current_one(machine):
    q, k, v = operands(machine)
    flash_attention(q, k, v, stream=9)
    assert machine.launched == [(9, "flash2_forward")]
    assert machine.notes == ["record on 5", "9 waits for event of 5", "enter 9", "leave 9"]
    machine.notes.clear()
    flash_attention(q, k, v, stream=5)  # the current one already
    assert machine.notes == ["enter 5", "leave 5"]


@pytest.mark.parametrize(("before", "notes"), [(None, ["device 0"]), (1, ["device 0", "device 1"])])
def test_the_operands_device_is_made_the_current_one(machine, before, notes):
    """And the one before is again; a new thread has had none."""
    q, k, v = operands(machine)
    flash_attention(q, k, v)
    machine.device = before
    flash_attention(q, k, v)
    assert machine.notes == notes


def test_what_a_graph_captures_keeps_its_scratch(machine):
    """Its kernels run again when other work may have been given scratch that was let go."""
    q, k, v = operands(machine, dtype=np.float16)
    o, lse = flash_attention(q, k, v, return_lse=True)
    expected = flash_attention_backward(o, q, k, v, o, lse)
    machine.current.capturing = True
    count = len(machine.allocated)
    gradients = flash_attention_backward(o, q, k, v, o, lse)
    (memory,) = machine.allocated[count:]
    for x, y in zip(gradients, expected, strict=True):
        np.testing.assert_array_equal(*on_host(x, y))
        assert np.shares_memory(x.view(np.ndarray), memory)
    assert sum(x.nbytes for x in gradients) < memory.size  # scratch lies there as well


def test_options_that_are_only_equal_are_still_refused(machine):
    q, k, v = operands(machine)
    flash_attention(q, k, v, causal=True)
    with pytest.raises(TypeError, match="causal=1"):
        flash_attention(q, k, v, causal=1)
    with pytest.raises(TypeError, match="scale=True"):
        flash_attention(q, k, v, scale=1.0)
        flash_attention(q, k, v, scale=True)
    assert flash_attention(q, k, v, window=[3, 1]).shape == (4, 11, 6)  # no tuple, so not remembered
    with pytest.raises(TypeError, match="scale=array"):
        flash_attention(q, k, v, scale=np.ones(3))


def python_calls(machine, function):
    """How many functions of the package a call of it enters, when it has been called before; kernels do not run."""
    package, entered = os.path.dirname(numba_flash.__file__), []

    def note(frame, event, argument):
        if event == "call" and frame.f_code.co_filename.startswith(package):
            entered.append(frame.f_code.co_name)

    with patch.object(gpu, "launch_kernel", lambda *arguments: (gpu.SUCCESS,)):
        for _ in range(2):
            function()
        before = sys.getprofile()
        sys.setprofile(note)
        try:
            function()
        finally:
            sys.setprofile(before)
    return entered


def test_a_repeated_call_enters_few_functions(machine):
    """Each costs the host a tenth of a microsecond and more."""
    q, k, v = operands(machine, dv=32, dtype=np.float16)
    o, lse = flash_attention(q, k, v, return_lse=True)
    assert len(python_calls(machine, lambda: flash_attention(q, k, v))) <= 7  # one for the scratch of maps
    assert len(python_calls(machine, lambda: flash_attention(q, k, v, return_lse=True))) <= 7
    assert len(python_calls(machine, lambda: flash_attention_backward(o, q, k, v, o, lse))) <= 8


def test_a_repeated_call_allocates_once(machine):
    q, k, v = operands(machine, dv=32)
    for _ in range(3):
        count = len(machine.allocated)
        flash_attention(q, k, v)
        assert len(machine.allocated) == count + 1


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_short_way_gives_the_same(machine, dtype):
    q, k, v = operands(machine, 2, dv=32, dtype=dtype)
    o, _ = flash_attention(q, k, v, return_lse=True)
    causal, _ = flash_attention(q, k, v, causal=True, return_lse=True)
    forget_plans()
    for _ in range(2):
        assert np.array_equal(flash_attention(q, k, v), o) and len(SHORTCUTS) in (1, 2)
        assert np.array_equal(flash_attention(q, k, v, causal=True), causal) and len(SHORTCUTS) == 2
    other = machine.asarray(np.array(q).repeat(2, axis=-1))[..., ::2]
    assert np.array_equal(flash_attention(other, k, v), o) and len(SHORTCUTS) == 3
    assert isinstance(flash_attention(q, k, v, kernel="flash2"), FakeArray) and len(SHORTCUTS) == 4
    forget_plans()
    assert not SHORTCUTS


def test_few_short_ways_are_remembered(machine, monkeypatch):
    monkeypatch.setattr(shortcut, "REMEMBERED", 2)
    q, k, v = operands(machine, Nq=16, dv=32)
    for n in range(5, 9):
        assert flash_attention(q[:, :n], k, v).shape == (4, n, 32) and len(SHORTCUTS) <= 2


def test_what_the_short_way_refuses(machine):
    q, k, v = operands(machine)
    for _ in range(2):
        with pytest.raises(ValueError, match="no flash_attention kernel 'fast'"):
            flash_attention(q, k, v, kernel="fast")
        with pytest.raises(TypeError, match=r"causal=\[True\]"):
            flash_attention(q, k, v, causal=[True])
        with pytest.raises(ValueError, match="q has head dimension 8, k has 4"):
            flash_attention(q, k[..., :4], v)
    assert not SHORTCUTS


def test_threads_call_at_the_same_time(machine):
    """Every call has parameters of its own."""
    inputs = [operands(machine, dv=32, seed=seed) for seed in range(4)]
    expected = [reference.attention(*on_host(*qkv))[0] for qkv in inputs]
    lock, real = threading.Lock(), machine.launch

    def launch(*arguments):
        time.sleep(0.01)  # others fill in theirs
        with lock:  # the simulator runs one kernel at a time
            return real(*arguments)

    with patch.object(gpu, "launch_kernel", launch), ThreadPoolExecutor(4) as pool:
        for results in [list(pool.map(lambda qkv: flash_attention(*qkv), inputs)) for _ in range(3)]:
            for o, wanted in zip(results, expected, strict=True):
                np.testing.assert_allclose(*on_host(o, wanted), rtol=1e-4, atol=1e-5)
