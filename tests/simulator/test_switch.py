"""On by one environment variable; otherwise free and a clear error."""

import os
import pathlib
import subprocess
import sys

import pytest

from numba_flash import simulator

ALONE = f"""
import sys, types
sys.modules["numba_flash"] = parent = types.ModuleType("numba_flash")
parent.__path__ = [{str(pathlib.Path(simulator.__file__).parents[1])!r}]
from numba_flash import simulator
"""
OFF = """
assert not simulator.enabled()
assert not {"numba", "numpy", "greenlet"} & set(sys.modules)
simulator.launch(print, 1, 1, 0, ())
"""
NUMBA_WAS_FIRST = """
import os, numba
os.environ["NUMBA_ENABLE_CUDASIM"] = "1"
from numba_flash import simulator
assert not simulator.enabled()
"""


def run(script, **environment):
    inherited = {name: value for name, value in os.environ.items() if name != "NUMBA_ENABLE_CUDASIM"}
    path = os.pathsep.join(p for p in sys.path if p)
    environment = {**inherited, "PYTHONPATH": path, **environment}
    return subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("environment", [{}, {"NUMBA_ENABLE_CUDASIM": "0"}, {"NUMBA_ENABLE_CUDASIM": ""}])
def test_off_costs_nothing_and_refuses_to_launch(environment):
    result = run(ALONE + OFF, **environment)
    assert result.stderr.splitlines()[-1].startswith("RuntimeError: the simulator is off: set NUMBA_ENABLE_CUDASIM=1")


def test_off_if_numba_was_imported_without_it():
    assert run(NUMBA_WAS_FIRST).returncode == 0


def test_every_public_name_exists_on_and_off():
    script = "from numba_flash import simulator as s; assert all(hasattr(s, name) for name in s.__all__)"
    assert run(script).returncode == 0
    assert all(hasattr(simulator, name) for name in simulator.__all__)
