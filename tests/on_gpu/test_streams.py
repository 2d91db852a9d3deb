"""Work is queued on the stream that a caller expects, in order with the rest, and nobody waits for it."""

import time

import numpy as np
import pytest

from numba_flash import flash_attention, flash_attention_backward, reference

pytestmark = pytest.mark.gpu


@pytest.fixture
def cupy():
    return pytest.importorskip("cupy")


def operands(cupy, *shape, dtype=np.float32, seed=0):
    """q, k, v of one shape."""
    random = np.random.default_rng(seed)
    return [cupy.asarray(random.standard_normal(shape).astype(dtype)) for _ in range(3)]


def keep_busy(cupy, seconds=0.3):
    """Queue work that takes about so long on the current stream."""
    x = cupy.ones((8192, 8192), np.float32)
    for _ in range(int(seconds / 0.02)):
        x @ x


def warmed(cupy, *arrays, **options):
    """The result of a call whose kernel is loaded and whose memory is in the pool by now."""
    o = flash_attention(*arrays, **options)
    cupy.cuda.Device().synchronize()
    return o


def test_a_call_does_not_wait(cupy):
    q, k, v = operands(cupy, 4, 256, 64)
    o, lse = warmed(cupy, q, k, v, return_lse=True)
    flash_attention_backward(o, q, k, v, o, lse)
    keep_busy(cupy)
    event = cupy.cuda.Event()
    event.record()
    begin = time.perf_counter()
    o, lse = flash_attention(q, k, v, return_lse=True)
    flash_attention_backward(o, q, k, v, o, lse)
    assert time.perf_counter() - begin < 0.1 and not event.done


def streams_of_every_kind(cupy):
    """(the stream, its handle) from each library that is here."""
    from cuda.core import Device
    from numba import cuda

    stream = cupy.cuda.Stream(non_blocking=True)
    yield stream, stream.ptr
    yield stream.ptr, stream.ptr
    other = cuda.stream()
    yield other, int(other.handle.value if hasattr(other.handle, "value") else other.handle)
    device = Device()
    device.set_current()
    core = device.create_stream()
    yield core, int(core.handle)
    try:
        import torch
    except ImportError:
        return
    torchs = torch.cuda.Stream()
    yield torchs, torchs.cuda_stream


def test_streams_of_every_kind(cupy):
    q, k, v = operands(cupy, 2, 300, 64)
    expected = cupy.asnumpy(warmed(cupy, q, k, v))
    for stream, handle in streams_of_every_kind(cupy):
        o = flash_attention(q, k, v, stream=stream)
        cupy.cuda.ExternalStream(handle).synchronize()
        assert np.array_equal(cupy.asnumpy(o), expected)


def test_a_stream_waits_for_what_makes_its_inputs(cupy):
    q, k, v = operands(cupy, 2, 300, 64)
    expected = cupy.asnumpy(warmed(cupy, 2 * q, k, v))
    stream = cupy.cuda.Stream(non_blocking=True)
    keep_busy(cupy)
    late = 2 * q
    o = flash_attention(late, k, v, stream=stream)
    stream.synchronize()
    assert np.array_equal(cupy.asnumpy(o), expected)


def test_calls_are_queued_on_the_current_stream(cupy):
    q, k, v = operands(cupy, 2, 300, 64)
    expected = cupy.asnumpy(warmed(cupy, q, k, v))
    with cupy.cuda.Stream(non_blocking=True) as stream:
        keep_busy(cupy)
        o = flash_attention(q, k, v)
        assert not stream.done
        stream.synchronize()
    assert np.array_equal(cupy.asnumpy(o), expected)


def test_two_streams_overlap(cupy):
    q, k, v = operands(cupy, 1, 128, 64)
    k, v = (cupy.tile(x, (1, 4096, 1)) for x in (k, v))  # one block of one kernel, for milliseconds
    warmed(cupy, q, k, v)
    streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(2)]

    def seconds(chosen):
        cupy.cuda.Device().synchronize()
        begin = time.perf_counter()
        for stream in chosen:
            with stream:
                flash_attention(q, k, v)
        cupy.cuda.Device().synchronize()
        return time.perf_counter() - begin

    # In one of several tries: other processes may be using the GPU.
    assert any(seconds(streams) < 1.5 * seconds(streams[:1]) for _ in range(20))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_captured_graph_replays(cupy, dtype):
    q, k, v = operands(cupy, 3, 200, 64, dtype=dtype)
    o, lse = warmed(cupy, q, k, v, return_lse=True, causal=True)
    flash_attention_backward(o, q, k, v, o, lse, causal=True, deterministic=True)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        o, lse = flash_attention(q, k, v, return_lse=True, causal=True)
        gradients = flash_attention_backward(o, q, k, v, o, lse, causal=True, deterministic=True)
        graph = stream.end_capture()
    for seed in (1, 2):
        for x, fresh in zip((q, k, v), operands(cupy, 3, 200, 64, dtype=dtype, seed=seed), strict=True):
            x[...] = fresh
        cupy.cuda.Device().synchronize()
        trash = [cupy.full((64, 1024), np.nan) for _ in range(50)]  # what a let-go scratch would be overwritten with
        graph.launch(stream)
        stream.synchronize()
        del trash
        again = flash_attention(q, k, v, return_lse=True, causal=True)
        for x, y in zip((o, lse), again, strict=True):
            assert np.array_equal(*map(cupy.asnumpy, (x, y)))
        anew = flash_attention_backward(o, q, k, v, o, lse, causal=True, deterministic=True)
        for x, y in zip(gradients, anew, strict=True):
            assert np.array_equal(*map(cupy.asnumpy, (x, y)))


def test_a_graph_of_torch_replays():
    torch = pytest.importorskip("torch")
    q, k, v = (torch.randn(2, 3, 200, 64, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        flash_attention(q, k, v, causal=True)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        o = flash_attention(q, k, v, causal=True)
    for x in (q, k, v):
        x.normal_()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(o, flash_attention(q, k, v, causal=True))


def test_another_device_than_the_current_one(cupy):
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("needs two GPUs")
    with cupy.cuda.Device(1):
        q, k, v = operands(cupy, 2, 100, 32)
    o, lse = flash_attention(q, k, v, return_lse=True)
    assert o.device.id == lse.device.id == 1 and cupy.cuda.runtime.getDevice() == 0
    expected = reference.attention(*map(cupy.asnumpy, (q, k, v)))
    for x, y in zip((o, lse), expected, strict=True):
        np.testing.assert_allclose(cupy.asnumpy(x), y, rtol=1e-4, atol=1e-4)
