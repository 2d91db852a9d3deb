"""Kernels compiled ahead of the first call; in processes of their own, where numba compiles."""

import json
import subprocess
import sys
import textwrap

import pytest
from interpreter import environment

from numba_flash.__main__ import main
from numba_flash.config import SHARED_BYTES, device_of_arch
from numba_flash.ladder import FASTEST_FIRST, HALVES
from numba_flash.problem import FLOATS
from numba_flash.simulator import SIMULATED
from numba_flash.warm import default_jobs

no_toolkit = pytest.mark.skipif(sys.platform == "darwin", reason="there is no CUDA toolkit for macOS")


def run(program, cache):
    """What a fresh interpreter prints."""
    env = environment(NUMBA_ENABLE_CUDASIM="0", NUMBA_FLASH_CACHE_DIR=str(cache))
    command = [sys.executable, "-c", textwrap.dedent(program)]
    return json.loads(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("arch", SHARED_BYTES)
def test_every_default_kernel_is_a_job_once(arch):
    jobs = default_jobs(device_of_arch(arch))
    assert len(set(jobs)) == len(jobs) > 50
    assert {arch.rstrip("a") for _, _, arch in jobs} == {arch}
    names = {kernel.name for kernel, _, _ in jobs}
    tensor_cores = {"sm_75": set(), "sm_90": {"matmul_wgmma", "matmul_mma", "flash3_forward"}}.get(
        arch, {"matmul_mma", "flash2_mma_forward"}
    )
    rungs = {"softmax_online", "matmul_registers", "flash2_forward"} | tensor_cores
    parts = {"delta", "merge", "flash2_backward_keys"}
    gradients = "flash3_backward" if arch == "sm_90" else "flash2_mma_backward"
    parts |= {"rows", "collect", gradients} if tensor_cores else {"convert"}
    assert names - {"flash2_backward_queries"} == parts | rungs and rungs < set(FASTEST_FIRST)
    of_rungs = ("flash2_forward", "flash2_mma_forward", "flash3_forward")
    forward = [kernel.config for kernel, _, _ in jobs if kernel.name in of_rungs]
    for half in (True, False):
        configs = [config for config in forward if (config[1] in HALVES) == half]
        of_warpgroups = half and arch == "sm_90"
        assert {config[0].D for config in configs} == ({64, 128, 256} if of_warpgroups else {32, 64, 128, 256})
        assert {config[2] == "elements" for config in configs} == ({False} if of_warpgroups else {True, False})
    simt = {kernel.config[1] for kernel, _, _ in jobs if kernel.name == "flash2_forward"}
    assert simt == set(FLOATS) - (set(HALVES) if tensor_cores else set())  # only what "auto" takes


COMPILE = """
    import json, sys, time
    from numba_flash.config import device_of_arch
    from numba_flash.warm import default_jobs
    from numba_flash.runtime.machine_code import machine_code
    jobs = [job for job in default_jobs(device_of_arch("sm_80")) if job[0].name == "delta"]
    code = machine_code(*jobs[0])
    print(json.dumps([code.symbol, code.registers, len(code.cubin), "numba" in sys.modules]))
"""


@no_toolkit
def test_what_one_process_compiles_the_next_one_finds(tmp_path):
    first, second = run(COMPILE, tmp_path), run(COMPILE, tmp_path)
    assert first[:3] == second[:3] and "delta" in first[0] and first[1] > 0
    assert (first[3], second[3]) == (True, False)  # the second has no need of a compiler
    (stored,) = tmp_path.rglob("delta-*")
    stored.write_bytes(stored.read_bytes()[:-100])
    assert run(COMPILE, tmp_path)[3]  # a damaged file is as good as none


def test_an_unknown_architecture_is_an_error(capsys):
    assert main(["cache", "warm", "--arch", "sm_61"]) == 2
    assert "'sm_61' is no architecture that is known here (sm_75, " in capsys.readouterr().err


@pytest.mark.skipif(not SIMULATED, reason="there is a GPU")
def test_without_a_gpu_an_architecture_must_be_named(capsys):
    assert main(["cache", "warm"]) == 2
    assert "there is no GPU here: name an architecture with --arch" in capsys.readouterr().err


@pytest.mark.skipif(not SIMULATED, reason="the compiler is on")
def test_the_simulator_does_not_compile(capsys):
    assert main(["cache", "warm", "--arch", "sm_80"]) == 2
    assert "unset it" in capsys.readouterr().err
