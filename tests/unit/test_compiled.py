"""Kernels compiled without a GPU, in a process of their own: here the simulator stands in for the compiler."""

import itertools
import json
import os
import subprocess
import sys
import textwrap

import pytest
from interpreter import ROOT, environment

from numba_flash.__main__ import main
from numba_flash.compiled import DEVICES, KIN, compile_all, launches_of, variants
from numba_flash.ladder import LADDER
from numba_flash.problem import FLOATS
from numba_flash.rungs.arguments import WIDTHS
from numba_flash.runtime.compile import capability, check_toolkit
from numba_flash.simulator import SIMULATED

RUNGS = [rung for rung in LADDER if rung.on_gpu]
SAMPLE = {
    "every-rung": ("--arch=sm_90", "--dtype=float32", "--dim=64", "--usual"),
    "sm_75": ("--arch=sm_75", "--dtype=float16", "--dim=64", "--only=flash2_forward"),
    "sm_80": ("--arch=sm_80", "--dtype=bfloat16", "--only=matmul"),
    "tensor-cores": ("--arch=sm_90", "--only=flash2_mma_forward", "--dtype=bfloat16", "--dim=128", "--usual"),
    "warpgroups": ("--arch=sm_90", "--only=flash3_forward", "--dtype=bfloat16", "--dim=128", "--usual"),
    "warpgroups-matmul": ("--arch=sm_90", "--only=matmul_wgmma", "--dtype=float16"),
    "gradients": ("--arch=sm_80", "--only=flash2_mma_backward", "--dtype=bfloat16", "--dim=128", "--usual"),
}

pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="there is no CUDA toolkit for macOS")


def run(*arguments):
    """A fresh interpreter, in which numba compiles."""
    env = environment(NUMBA_ENABLE_CUDASIM="0")
    return subprocess.run([sys.executable, *arguments], env=env, cwd=ROOT, capture_output=True, text=True)


def compile_and_check(*choice):
    """The lines of the table, one a kernel; no kernel breaks a rule."""
    done = run("-m", "numba_flash", "info", "--compiled", *choice)
    assert done.returncode == 0, done.stdout + done.stderr
    _, *kernels, summary = done.stdout.splitlines()
    assert summary == f"{len(kernels)} kernels compiled, 0 of them break a rule"
    return kernels


@pytest.mark.parametrize("choice", SAMPLE.values(), ids=SAMPLE)
def test_a_sample_keeps_the_rules(choice):
    kernels = compile_and_check(*choice)
    if choice == SAMPLE["every-rung"]:
        names = [*(rung.name for rung in RUNGS if "float32" in rung.dtypes), "delta", "merge"]
        assert [name for name in names if not any(line.startswith(name) for line in kernels)] == []


def test_kernels_with_mods_keep_the_rules():
    """No float64 and no array in local memory; where mods are large, registers may run out, and products wait."""
    done = run("tests/unit/mod_kernels.py")
    assert done.returncode == 0, done.stderr
    found = [line.split(": ", 2) for line in done.stdout.splitlines()]
    warpgroups = {"flash3_forward", "flash3_backward"}
    assert {name for weight, name, *_ in found if weight == "heavy"} == warpgroups | {
        "flash2_forward", "flash2_backward_keys", "flash2_mma_forward", "flash2_mma_backward",
    }  # fmt: skip
    assert {name for weight, name, *_ in found if weight == "light"} == warpgroups
    broken = [(weight, rule) for weight, _, *rules in found for rule in rules]
    assert [rule for weight, rule in broken if weight == "light" or "float64" in rule or "local" in rule] == []


@pytest.mark.skipif(os.environ.get("HYPOTHESIS_PROFILE") != "nightly", reason="minutes: HYPOTHESIS_PROFILE=nightly")
@pytest.mark.parametrize("arch", DEVICES)
def test_every_kernel_keeps_the_rules(arch):
    kernels = compile_and_check(f"--arch={arch}")
    assert len(kernels) == sum(v.arch == arch for v in variants())


def test_every_rung_is_listed_for_each_of_its_architectures_dtypes_and_loads():
    listed = {(v.source, v.arch, v.problem.dtype) for v in variants()}
    wanted = {(rung.name, arch, dtype) for rung in RUNGS for arch in rung.archs for dtype in rung.dtypes}
    assert wanted <= listed
    archs = set(DEVICES) - set(KIN)
    assert {(name, arch, dtype) for name in ("delta", "merge") for arch in archs for dtype in FLOATS} <= listed
    loads = {v.vector for v in variants() if v.source == "flash2_forward"}
    assert loads == {True, False}
    assert {v.kernel for v in variants() if v.source == "flash2_backward"} >= {
        "flash2_backward_keys",
        "flash2_backward_queries",
    }
    results = {(v.problem.dtype, v.problem.out_dtype) for v in variants() if v.source == "matmul_registers"}
    assert results == {*zip(FLOATS, FLOATS, strict=True), ("float16", "float32"), ("bfloat16", "float32")}


def test_score_options_are_listed_for_each_width_dtype_and_kind_of_loads():
    listed = {(v.kernel, v.arch, v.problem.dtype, v.d, v.vector) for v in variants() if v.options}
    kernels = {"flash2_forward", "flash2_backward_keys", "flash2_backward_queries"}
    assert listed >= set(itertools.product(kernels, ("sm_80", "sm_90"), FLOATS, WIDTHS, (True, False)))


def test_devices_with_less_shared_memory_add_their_smaller_tiles_only():
    added = [v for v in variants() if v.arch == "sm_86"]
    assert {v.source for v in added} == {
        "flash2_forward",
        "flash2_backward",
        "flash2_mma_forward",
        "flash2_mma_backward",
        "matmul_mma",
    }
    for v in added:
        small, kin = (launches_of(v.source, v.problem, DEVICES[arch])[v.launch] for arch in ("sm_86", "sm_80"))
        if v.kernel == "collect":  # it has no shared memory, but follows the tiles of the kernel before it
            assert small.kernel.config != kin.kernel.config
        else:
            assert small.kernel.shared_bytes < min(kin.kernel.shared_bytes, 99 * 1024)


def test_the_usual_ones_are_of_calls_without_options():
    for v in variants():
        p = v.problem
        options = getattr(p, "softcap", None), getattr(p, "scale", 1) == 0, getattr(p, "deterministic", False)
        assert v.usual == (getattr(p, "vector", True) and not any(options))
        assert v.matches("", "", "", 0, usual=True) == v.usual and v.matches("", "", "", 0, usual=False)
    assert {v.source for v in variants() if v.usual} == {v.source for v in variants()}


def test_a_kernel_is_listed_once():
    everything = list(variants())
    assert len(set(everything)) == len(everything)


BROKEN = """
    import json
    from numba import cuda, types
    from numba_flash.compiled import Variant, inspect_launch
    from numba_flash.ptx import global_view
    from numba_flash.runtime import Kernel, Launch
    from numba_flash.specimen import specimen

    def good(X, n):
        x = global_view(X, 0, types.float32)
        x[n] = x[0] * x[1]

    def doubles(X, n):
        x = global_view(X, 0, types.float32)
        x[n] = x[0] * 0.1

    def local(X, n):
        x = global_view(X, 0, types.float32)
        y = cuda.local.array(4, types.float32)
        for c in range(4):
            y[c] = x[c]
        x[0] = y[n]

    def spills(X, n):
        x = global_view(X, cuda.threadIdx.x, types.float32)
        y = cuda.local.array(100, types.float32)
        for c in range(100):  # 100 numbers in the 64 registers that a thread of 1024 has
            y[c] = x[c]
        for i in range(n):
            for c in range(100):
                y[c] = y[c] * x[i] + x[i + c]
        for c in range(100):
            x[c] = y[c]

    def nonsense(X, n):
        X.there_is_no_such_thing()

    def rules(function, dtype="float32"):
        launch = Launch(Kernel.of(function, 1024), 1, (None, 1))
        problem = specimen("flash_attention", dtype)
        return inspect_launch(launch, Variant("", function.__name__, "sm_80", problem, 0))[1]

    found = {f.__name__: rules(f) for f in (good, doubles, local, spills, nonsense)}
    found["doubles of float64"] = rules(doubles, "float64")
    print(json.dumps(found))
"""


def test_broken_rules_are_named(tmp_path):
    script = tmp_path / "broken.py"
    script.write_text(textwrap.dedent(BROKEN))
    done = run(str(script))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["good"] == found["doubles of float64"] == []
    assert [reason.partition(" ")[2] for reason in found["doubles"]] == [".f64 in a float32 kernel"]
    assert found["local"] == ["an array in local memory"]
    (spilled,) = found["spills"]
    assert int(spilled.split()[0]) > 0 and spilled.endswith(" bytes spilled")
    (nonsense,) = found["nonsense"]
    assert nonsense.startswith("does not compile: ") and "there_is_no_such_thing" in nonsense


@pytest.mark.parametrize("missing", ["nvvm", "nvJitLink"])
def test_a_missing_part_of_the_toolkit_is_an_error_that_says_what_to_install(monkeypatch, missing):
    import cuda.pathfinder

    def load(library):
        if library == missing:
            raise cuda.pathfinder.DynamicLibNotFoundError

    monkeypatch.setattr(cuda.pathfinder, "load_nvidia_dynamic_lib", load)
    with pytest.raises(RuntimeError, match=rf"no {missing}, .*: install .* numba_flash\[cu13\]"):
        check_toolkit()


@pytest.mark.parametrize(
    ("arch", "expected"), [("sm_75", (7, 5)), ("sm_80", (8, 0)), ("sm_90a", (9, 0, "a")), ("sm_120a", (12, 0, "a"))]
)
def test_capability(arch, expected):
    assert capability(arch) == expected


@pytest.mark.parametrize("arch", ["", "sm_8", "80", "sm_90b", "compute_80"])
def test_what_is_no_architecture(arch):
    with pytest.raises(ValueError, match="is no architecture"):
        capability(arch)


@pytest.mark.skipif(not SIMULATED, reason="the compiler is on")
def test_the_simulator_does_not_compile(capsys):
    with pytest.raises(RuntimeError, match="NUMBA_ENABLE_CUDASIM=1 .*: unset it"):
        compile_all(list(variants())[:1])
    assert main(["info", "--compiled", "--only", "merge"]) == 2
    assert "unset it" in capsys.readouterr().err


def test_a_choice_of_nothing_is_an_error(capsys):
    assert main(["info", "--compiled", "--only", "no such kernel"]) == 2
    assert "no kernel matches" in capsys.readouterr().err
