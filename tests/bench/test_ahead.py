"""Kernels compiled before the first cell are those that its calls ask for."""

import pytest

from numba_flash.bench import ahead
from numba_flash.bench.cells import ladder_plan, lengths_plan, rungs_for
from numba_flash.config import device_of_arch

H100 = device_of_arch("sm_90")


@pytest.mark.parametrize("plan", [ladder_plan, lengths_plan])
def test_every_rung_of_a_plan_is_there_once(plan):
    cells = plan([], False)
    jobs = ahead.jobs_for(cells, [], H100)
    rungs = {rung.name for cell in cells for rung in rungs_for(cell)}
    names = [kernel.name for kernel, _, _ in jobs]
    assert all(any(name.startswith(rung) for name in names) for rung in rungs)
    assert len(set(jobs)) == len(jobs)


def test_a_pattern_chooses():
    jobs = ahead.jobs_for(ladder_plan([], False), ["softmax_online"], H100)
    assert {kernel.name for kernel, _, _ in jobs} == {"softmax_online"}


def test_what_cannot_be_compiled_stops_nothing(monkeypatch):
    def broken(*job):
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(ahead, "machine_code", broken)
    ahead.into_the_cache("kernel", "signature", "sm_90")


def test_progress_is_told(monkeypatch):
    told = []
    monkeypatch.setattr(ahead, "on_all_cores", lambda function, jobs, done: [done() for _ in jobs])
    monkeypatch.setattr(ahead, "cuda_device", lambda ordinal: H100)
    ahead.compile_ahead(ladder_plan([], False), ["softmax"], lambda text, share: told.append(text))
    assert told[0] == f"1 of {len(told)} kernels compiled" and len(told) > 1
