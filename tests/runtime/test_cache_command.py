"""`python -m numba_flash cache`: what is on disk, and its removal."""

import json
import os
import subprocess
import sys
import time

import pytest
from interpreter import environment

from numba_flash.__main__ import main
from numba_flash.runtime import cache

from .checks import set_age
from .modules import a_binary

HEXES = "0123456789abcdef" * 4


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A cache of three kernels of two names, a file that a killed process left, and a file of the user."""
    folder = tmp_path / "c[red]ache"
    monkeypatch.setenv("NUMBA_FLASH_CACHE_DIR", str(folder))
    monkeypatch.setenv("NUMBA_FLASH_CACHE_SIZE", "5")
    for n, name in enumerate(("delta", "flash2_forward", "flash2_forward")):
        cache.store(name, cache.key(str(n)), a_binary(cache, n, 500_000))
        set_age(cache.file_of(name, cache.key(str(n))), 3600 * (1 + n))
    (folder / f"merge-{HEXES}.zip.abc.tmp").touch(0o600)
    (folder / "notes.txt").write_text("notes")
    return folder


def test_info(folder, capsys):
    assert main(["cache", "info"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["directory"] == str(folder)
    assert lines["compiled"] == "kernels  3" and lines["unfinished"] == "files  1"
    assert lines["size"] == "1.4 MiB of at most 5.0 MiB"
    assert time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() - 3 * 3600))[:-1] in lines["last"]


def test_verbose(folder, capsys):
    assert main(["cache", "info", "--verbose"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["delta", "1", "0.5", "MiB"] in [row[:4] for row in rows]
    assert ["flash2_forward", "2", "1.0", "MiB"] in [row[:4] for row in rows]


def test_json(folder, capsys):
    assert main(["cache", "info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["directory"] == str(folder) and facts["writable"] and facts["limit_bytes"] == 5 * 2**20
    assert facts["entries"] == 3 and facts["unfinished"] == 1
    assert facts["bytes"] == sum(file.stat().st_size for file in folder.glob("*.zip"))
    assert facts["newest"] - facts["oldest"] == pytest.approx(2 * 3600, abs=60)


def test_clear(folder, capsys):
    count = sum(file.stat().st_size for file in folder.glob("*.zip"))
    assert main(["cache", "clear"]) == 0
    assert f"removed 4 files, {count / 2**20:.1f} MiB, from {folder}" in capsys.readouterr().out
    assert [file.name for file in folder.iterdir()] == ["notes.txt"]
    assert main(["cache", "clear"]) == 0
    assert "removed 0 files" in capsys.readouterr().out


def test_what_is_left_is_named(folder, capsys):
    (folder / f"mine-{HEXES}.zip").write_text("mine")
    assert main(["cache", "clear"]) == 1
    assert f"left: {folder / f'mine-{HEXES}.zip'}" in capsys.readouterr().out
    assert (folder / f"mine-{HEXES}.zip").read_text() == "mine"


def test_no_cache_yet(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NUMBA_FLASH_CACHE_DIR", str(tmp_path / "not" / "yet"))
    assert main(["cache", "info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["writable"] and facts["entries"] == facts["bytes"] == 0 and facts["oldest"] is None
    assert main(["cache", "info", "--verbose"]) == main(["cache", "clear"]) == 0
    assert "last used  " not in capsys.readouterr().out.partition("kernel ")[0]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("NUMBA_FLASH_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert main(["cache", "info"]) == 0
    assert "file/cache (not writable)".replace("/", os.sep) in capsys.readouterr().out


def test_a_command_without_an_action(capsys):
    with pytest.raises(SystemExit):
        main(["cache"])
    assert "{info,clear" in capsys.readouterr().err


def test_in_a_process_of_its_own(folder):
    line = [sys.executable, "-m", "numba_flash", "cache", "info", "--json"]
    done = subprocess.run(line, env=environment(), capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["entries"] == 3
