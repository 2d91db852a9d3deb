"""The environment of a fresh interpreter, which imports what this one does."""

import os
from pathlib import Path

import numba_flash

ROOT = Path(numba_flash.__file__).parent.parent
TESTS = Path(__file__).parent


def environment(*folders, **variables):
    """This process's, in which modules are looked for in these folders first, then among the package and its tests."""
    inherited = os.environ.get("PYTHONPATH")
    paths = [*map(str, (*folders, ROOT, TESTS)), *([inherited] if inherited else [])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **variables}
