"""The cache of compiled kernels: what it promises, and wrong caches that break a promise each."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from interpreter import environment

from numba_flash.runtime import cache

from . import checks, storm
from .modules import Mutant, made

POSIX_ONLY = {
    checks.what_is_no_regular_file_is_a_miss,
    checks.files_of_others_are_refused,
    checks.files_that_others_may_write_are_refused,
    checks.a_full_disk_leaves_nothing_behind,
    checks.a_folder_that_is_a_link_is_used,
}
CHECKS = [
    checks.what_is_stored_is_loaded,
    checks.names_are_only_for_people,
    checks.keys_tell_parts_and_environments_apart,
    checks.damaged_archives_are_refused,
    checks.what_is_no_kernel_of_this_key_is_a_miss,
    checks.large_files_are_not_read,
    checks.a_folder_in_place_of_a_file_is_a_miss,
    checks.what_may_not_be_read_is_a_miss,
    checks.what_cannot_be_written_is_one_warning,
    checks.a_file_in_use_that_is_right_is_no_failure,
    checks.least_recently_used_kernels_go_first,
    checks.loading_touches_a_file_once_a_day,
    checks.eviction_tolerates_files_that_are_gone,
    checks.unfinished_files_go_when_they_are_old,
    checks.clearing_removes_the_caches_own_files_only,
    *sorted(POSIX_ONLY, key=lambda check: check.__name__),
]
MUTANTS = [
    Mutant(
        "parts of a key run together", "cache",
        "ascii((environment(), parts))", "ascii((environment(), ''.join(parts)))",
        checks.keys_tell_parts_and_environments_apart,
    ),
    Mutant(
        "the environment is not in the key", "cache", "ascii((environment(), parts))", "ascii(parts)",
        checks.keys_tell_parts_and_environments_apart,
    ),
    Mutant(
        "names are not made safe", "cache", """re.sub(r'[^A-Za-z0-9_]', '_', name)[:100]""", "name",
        checks.names_are_only_for_people,
    ),
    Mutant(
        "the key inside is not compared", "binary", "found != (FORMAT, key)", "found[0] != FORMAT",
        checks.what_is_no_kernel_of_this_key_is_a_miss,
    ),
    Mutant(
        "the format is not compared", "binary", "found != (FORMAT, key)", "found[1] != key",
        checks.what_is_no_kernel_of_this_key_is_a_miss,
    ),
    Mutant(
        "checksums are not compared", "binary",
        "archive.read(CODE)", "content[content.index(CODE.encode()) + 12 :][: archive.getinfo(CODE).file_size]",
        checks.damaged_archives_are_refused,
    ),
    Mutant(
        "counts are not checked", "binary", "type(facts[name]) is not int or facts[name] < 0", "False",
        checks.what_is_no_kernel_of_this_key_is_a_miss,
    ),
    Mutant(
        "links are followed", "cached_files", '("O_NOFOLLOW", "O_NONBLOCK")', '("O_NONBLOCK",)',
        checks.what_is_no_regular_file_is_a_miss,
    ),
    Mutant(
        "owners are not compared", "cached_files", "status.st_uid not in (os.geteuid(), 0)", "False",
        checks.files_of_others_are_refused,
    ),
    Mutant(
        "others may write", "cached_files", "(stat.S_IWGRP | stat.S_IWOTH)", "0",
        checks.files_that_others_may_write_are_refused,
    ),
    Mutant(
        "the folder is open to others", "cache", "mkdir(mode=0o700, ", "mkdir(",
        checks.files_that_others_may_write_are_refused,
    ),
    Mutant(
        "a warning for every store", "cache", "unwritable_noted.acquire(blocking=False)", "True",
        checks.what_cannot_be_written_is_one_warning,
    ),
    Mutant(
        "what was not written is left behind", "cache", "            os.unlink(temporary)", "            pass",
        checks.a_full_disk_leaves_nothing_behind,
    ),
    Mutant(
        "the latest kernels go first", "cached_files",
        "sorted(found, key=lambda entry: (entry.used,", "sorted(found, key=lambda entry: (-entry.used,",
        checks.least_recently_used_kernels_go_first,
    ),
    Mutant(
        "loads do not count as use", "cache", "os.utime(file)", "pass",
        checks.least_recently_used_kernels_go_first,
    ),
    Mutant(
        "temporary files stay", "cached_files", "stale = entry.temporary and", "stale = False and",
        checks.unfinished_files_go_when_they_are_old,
    ),
    Mutant(
        "temporary files go at once", "cached_files", "(total > limit and not entry.temporary)", "total > limit",
        checks.unfinished_files_go_when_they_are_old,
    ),
    Mutant(
        "names alone make a file ours", "cached_files", "if not begins_an_archive(stream.read(64)):", "if False:",
        checks.clearing_removes_the_caches_own_files_only,
    ),
]  # fmt: skip
IN_PLACE = Mutant(
    "files are written in place", "cache",
    'mkstemp(".tmp", f"{file.name}.", file.parent)',
    "os.open(file, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), file",
)  # fmt: skip
ONE_TEMPORARY_FILE = Mutant(
    "all processes write one temporary file", "cache",
    'mkstemp(".tmp", f"{file.name}.", file.parent)',
    'os.open(temporary := f"{file}.a.tmp", os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), temporary',
)  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The cache's folder, not made yet."""
    monkeypatch.setenv("NUMBA_FLASH_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("NUMBA_FLASH_CACHE_SIZE", raising=False)
    return tmp_path / "cache"


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_promise(check, folder):
    if check in POSIX_ONLY and os.name != "posix":
        pytest.skip("no such files here")
    check(made(), folder)


@pytest.mark.skipif(os.name != "posix", reason="some are about files of POSIX")
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutants_break_a_promise(mutant, folder):
    with pytest.raises(AssertionError):
        mutant.killed_by(made(mutant), folder)


def test_the_limit(folder, monkeypatch):
    c = made()
    for text, count in (("", 512), ("3", 3), ("0", 0), ("0.5", 0.5)):
        monkeypatch.setenv("NUMBA_FLASH_CACHE_SIZE", text)
        with checks.warned(0):
            assert c.limit() == count * 2**20
    for text in ("much", "-1", "nan", "inf"):
        monkeypatch.setenv("NUMBA_FLASH_CACHE_SIZE", text)
        with checks.warned(1, text):
            assert c.limit() == 512 * 2**20


def test_the_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("NUMBA_FLASH_CACHE_DIR", "here")
    monkeypatch.chdir(tmp_path)
    assert cache.directory().absolute() == tmp_path / "here"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("NUMBA_FLASH_CACHE_DIR", "~/there")
    assert cache.directory() == tmp_path / "there"
    monkeypatch.delenv("NUMBA_FLASH_CACHE_DIR")
    assert cache.directory().name in ("numba_flash", "Cache") and cache.directory().is_relative_to(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep caches elsewhere")
def test_a_user_without_a_home(monkeypatch):
    import pwd

    for name in ("HOME", "XDG_CACHE_HOME", "NUMBA_FLASH_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", lambda user: {}[user])
    assert cache.directory().is_absolute() and "~" not in str(cache.directory())


IMPORTED = """
import sys, time
from runtime.modules import made
import numpy
before = set(sys.modules)
c = made()
c.store("kernel", c.key("part"), c.Binary(b"code", "symbol", 1, 2, 3, 4, 5))
assert c.load("kernel", c.key("part")).symbol == "symbol"
print(*{name.partition(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)
"""


def run(script, folder, **variables):
    """What a fresh interpreter prints."""
    env = environment(**{"NUMBA_FLASH_CACHE_DIR": str(folder), **variables})
    return subprocess.run([sys.executable, "-c", script], env=env, check=True, capture_output=True, text=True).stdout


def test_nothing_but_the_standard_library_is_imported(tmp_path):
    assert run(IMPORTED, tmp_path).split() == []
    home = {"NUMBA_FLASH_CACHE_DIR": "", "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    assert run(IMPORTED, tmp_path, **home).split() == ["platformdirs"]


@pytest.mark.filterwarnings("error::RuntimeWarning")
class TestAtOnce:
    """Many processes and threads on one cache."""

    def test_processes(self, folder):
        found, wrong = storm.storm(folder, seconds=4)
        assert wrong == [] and found > 100
        self.intact(folder)

    @pytest.mark.skipif(os.name != "posix", reason="open files are locked")
    @pytest.mark.parametrize("mutant", [IN_PLACE, ONE_TEMPORARY_FILE], ids=lambda mutant: mutant.name)
    def test_processes_notice_wrong_stores(self, mutant, folder):
        _, wrong = storm.storm(folder, seconds=20, mutant=mutant)
        assert any("no intact archive" in text for text in wrong), wrong

    def test_threads(self, folder, monkeypatch):
        monkeypatch.setenv("NUMBA_FLASH_CACHE_SIZE", "1")
        c = made()
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda seed: storm.work(c, seed, 2, threading.Event()), range(8)))
        assert [wrong for _, wrong in results] == [[]] * 8 and sum(found for found, _ in results) > 100
        self.intact(folder)

    @staticmethod
    def intact(folder):
        """Every kernel in the cache is the right one, and nothing is unfinished."""
        c = made()
        assert [path for path in folder.iterdir() if path.suffix != ".zip"] == []
        for n in range(len(storm.NAMES)):
            assert storm.faults(c, n) == []

    @pytest.mark.skipif(os.name != "posix", reason="kill -9")
    def test_processes_that_are_killed(self, folder):
        c, spawn, kernels = made(), storm.multiprocessing.get_context("spawn"), 0
        for turn in range(10):
            ready = spawn.Event()
            process = spawn.Process(target=storm.store_for_ever, args=(folder, ready))
            process.start()
            assert ready.wait(60)
            storm.time.sleep(0.01 + 0.003 * turn)
            process.kill()
            process.join()
            assert [storm.faults(c, n) for n in range(len(storm.NAMES))] == [[]] * len(storm.NAMES)
            kernels = max(kernels, len(c.entries()))
        assert kernels >= len(storm.NAMES)

    @pytest.mark.skipif(os.name != "posix", reason="kill -9")
    def test_what_a_killed_process_leaves_behind_is_removed(self, folder):
        process = storm.multiprocessing.get_context("spawn").Process(target=storm.die_before_replacing, args=(folder,))
        process.start()
        process.join()
        c = made()
        (left,) = c.entries()
        assert left.temporary and left.bytes > storm.SIZE
        checks.stored(c)
        assert len(c.entries()) == 2
        checks.set_age(left.file, 2 * 3600)
        checks.stored(c)
        assert [entry.temporary for entry in c.entries()] == [False]
