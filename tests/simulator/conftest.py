import pathlib

import pytest

from numba_flash import simulator

collect_ignore_glob = [] if simulator.enabled() else ["test_*.py"]


def pytest_collection_modifyitems(items):
    here = pathlib.Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.simulator)
