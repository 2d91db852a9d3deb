"""Many callers at once, little memory, and what is wrong with a machine."""

import subprocess
import sys
import threading

import numpy as np
import pytest
from interpreter import environment

from numba_flash import flash_attention

pytestmark = pytest.mark.gpu

FIRST_CALL = """
    import numpy as np, cupy, sys
    from numba_flash import flash_attention, reference
    q, k, v = np.random.default_rng(0).standard_normal((3, 2, 70, 32)).astype(np.float32)
    o = flash_attention(*map(cupy.asarray, (q, k, v)), causal=True)
    expected, _ = reference.attention(q, k, v, causal=True)
    np.testing.assert_allclose(cupy.asnumpy(o), expected, rtol=1e-4, atol=1e-4)
    print("numba" in sys.modules)
"""


def start(cache):
    """A process that makes its first call."""
    program = "\n".join(line[4:] for line in FIRST_CALL.splitlines())
    env = environment(NUMBA_FLASH_CACHE_DIR=str(cache), NUMBA_ENABLE_CUDASIM="0")
    command = [sys.executable, "-c", program]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_eight_processes_start_on_one_empty_cache(tmp_path):
    for process in [start(tmp_path) for _ in range(8)]:
        out, error = process.communicate()
        assert process.returncode == 0, error
    (kernel,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert kernel.name.startswith("flash2_forward-")
    out, error = start(tmp_path).communicate()
    assert out.strip() == "False", error  # found on the disk, so numba is not even imported


def test_threads_call_at_once():
    cupy = pytest.importorskip("cupy")
    q, k, v = cupy.asarray(np.random.default_rng(0).standard_normal((3, 2, 90, 48)).astype(np.float32))
    expected, results = cupy.asnumpy(flash_attention(q, k, v, window=(20, 3))), []

    def work():
        with cupy.cuda.Stream(non_blocking=True) as stream:
            for _ in range(20):
                o = flash_attention(q, k, v, window=(20, 3))
                stream.synchronize()
                results.append(cupy.asnumpy(o))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 160 and all(np.array_equal(o, expected) for o in results)


def test_out_of_memory_is_an_error_and_the_next_call_works():
    cupy = pytest.importorskip("cupy")
    q, k, v = cupy.asarray(np.random.default_rng(0).standard_normal((3, 2, 4000, 64)).astype(np.float32))
    before, pool = cupy.asnumpy(q), cupy.get_default_memory_pool()
    expected = cupy.asnumpy(flash_attention(q, k, v))
    pool.free_all_blocks()
    pool.set_limit(size=pool.used_bytes() + 1000)
    try:
        with pytest.raises(cupy.cuda.memory.OutOfMemoryError):
            flash_attention(q, k, v)
    finally:
        pool.set_limit(size=0)
    assert np.array_equal(cupy.asnumpy(q), before)
    assert np.array_equal(cupy.asnumpy(flash_attention(q, k, v)), expected)
