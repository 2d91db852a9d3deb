"""What is written can be read back, and says all that a later reader needs."""

import csv
import json
from dataclasses import asdict, replace

import pytest

from numba_flash.bench.machine import cpu, describe, driver_and_clocks, file_name, machine
from numba_flash.bench.measure import Row
from numba_flash.bench.results import COLD, HOST, LADDER, LENGTHS, Result, read_csv, read_folder, write_csv, write_json

from .fakes import CEILINGS, COLD_ROWS, HOST_ROWS, MACHINE, ladder_rows

RESULTS = [
    Result(LADDER, [*CEILINGS, *ladder_rows()], MACHINE, seconds=12.0),
    Result(LENGTHS, ladder_rows(), MACHINE, "--dtype float32"),
    Result(HOST, HOST_ROWS, MACHINE),
    Result(COLD, COLD_ROWS, MACHINE),
]


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.part)
def test_csv_can_be_read_back(result, tmp_path):
    path = write_csv(tmp_path, result)
    assert path == tmp_path / f"nvidia_fake_1_{result.part}.csv"
    found = read_csv(path)
    assert found == result and found.seconds == result.seconds


def test_every_line_names_the_machine(tmp_path):
    with write_csv(tmp_path, RESULTS[0]).open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(RESULTS[0].rows)
    for line in lines:
        assert {name: line[name] for name in MACHINE} == MACHINE
    ours = next(line for line in lines if line["provider"] == "flash2_forward")
    assert (ours["milliseconds"], ours["times slow"], ours["times quick"]) == ("2.0", "4.0", "0.5")
    wrong = next(line for line in lines if line["provider"] == "flash1_forward")
    assert wrong["milliseconds"] == "" and wrong["refused"]


def test_a_folder_is_read_in_the_order_of_the_parts(tmp_path):
    for result in reversed(RESULTS):
        write_csv(tmp_path, result)
    (tmp_path / "simt_float32_h100.csv").write_text("what,dtype\n")  # of another kind, and left alone
    assert read_folder(tmp_path) == RESULTS


@pytest.mark.parametrize("text", ["", "operation,provider\nforward,x\n"])
def test_a_file_of_another_version_is_an_error_that_names_it(tmp_path, text):
    (tmp_path / "a_ladder.csv").write_text(text)
    with pytest.raises(ValueError, match="a_ladder.csv is no result of this version"):
        read_folder(tmp_path)


def test_json(tmp_path):
    write_json(tmp_path / "all.json", RESULTS)
    content = json.loads((tmp_path / "all.json").read_text())
    assert list(content) == [LADDER, LENGTHS, HOST, COLD]
    assert content[LADDER]["machine"] == MACHINE and content[LENGTHS]["selection"] == "--dtype float32"
    assert [Row(**row) for row in content[LADDER]["rows"]] == RESULTS[0].rows
    assert content[HOST]["rows"] == [asdict(row) for row in HOST_ROWS]


def test_failures_are_ours_alone():
    assert [result.failed for result in RESULTS] == [["flash1_forward"], ["flash1_forward"], ["numba_flash.torch"], []]
    assert Result(COLD, [replace(COLD_ROWS[0], refused="no")], MACHINE).failed == ["import numba_flash"]


def test_the_machine_has_the_same_facts_with_and_without_a_gpu():
    found = machine()
    assert set(found) == set(MACHINE)
    assert all(isinstance(fact, str) and fact for fact in found.values())
    assert cpu() == found["cpu"] and found["date"] in describe(found)


@pytest.mark.parametrize(
    "program, expected",
    [
        ("echo '580.1, 1980 MHz, 1990 MHz, 2619 MHz, 2620 MHz, 700.00 W'",
         ("580.1", "SM 1980 MHz of 1990 MHz, memory 2619 MHz of 2620 MHz, limit 700.00 W")),
        ("echo No devices were found; exit 6", ("unknown", "unknown")),
        ("echo strange", ("unknown", "unknown")),
    ],
)  # fmt: skip
def test_nvidia_smi(program, expected, tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f'#!/bin/sh\ncase "$*" in *--id=0000:01:00.0*clocks.sm*) {program};; *) exit 1;; esac\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert driver_and_clocks("0000:01:00.0") == expected


def test_without_nvidia_smi(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert driver_and_clocks("0") == ("unknown", "unknown")


def test_descriptions():
    assert describe(MACHINE) == (
        "NVIDIA Fake 1, driver 1.2, CUDA 13.0, Python 3.12.1, numba 0.6, torch 2.0, 2026-01-02"
    )
    assert describe(MACHINE | {"gpu": "no GPU"}).startswith("Fake CPU, Python")
    assert file_name({"gpu": "NVIDIA H100 80GB HBM3"}) == "nvidia_h100_80gb_hbm3"
