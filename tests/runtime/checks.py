"""What the cache of compiled kernels promises; each check is given the modules' names, and a folder that is empty."""

import json
import os
import time
import warnings
import zipfile
from contextlib import contextmanager
from unittest.mock import patch

from .modules import a_binary

POSIX = os.name == "posix"
DAY = 86400


@contextmanager
def warned(count, *texts):
    """Within, there are so many RuntimeWarnings, and each text is in the first."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield
    assert [w.category for w in found] == [RuntimeWarning] * count, [str(w.message) for w in found]
    for text in texts:
        assert str(text) in str(found[0].message)


def stored(c, name="kernel", seed=0, size=500):
    """A key under which a kernel was just stored, and the kernel."""
    key, binary = c.key(name, str(seed)), a_binary(c, seed, size)
    with warned(0):
        c.store(name, key, binary)
    return key, binary


def set_age(file, seconds):
    """Let a file have been used that long ago."""
    os.utime(file, (time.time() - seconds,) * 2)


def what_is_stored_is_loaded(c, folder):
    with warned(0):
        assert c.load("kernel", c.key("kernel", "0")) is None
        key, binary = stored(c)
        assert c.load("kernel", key) == binary
        assert c.load("kernel", c.key("kernel", "1")) is None and c.load("other", key) is None
        c.store("kernel", key, a_binary(c, seed=7))
        assert c.load("kernel", key) == a_binary(c, seed=7)
    (file,) = folder.iterdir()
    assert file.name == f"kernel-{key}.zip"
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None and archive.read("kernel.cubin") == a_binary(c, seed=7).cubin


def names_are_only_for_people(c, folder):
    for name in ("", "a/b", "../up", "<lambda>", "größer", "n" * 300, "a\0b"):
        key, binary = stored(c, name)
        assert c.load(name, key) == binary
    assert len(c.entries()) == len(list(folder.iterdir())) == 7 and not list(folder.parent.glob("up*"))


def keys_tell_parts_and_environments_apart(c, folder):
    parts = [(), ("",), ("", ""), ("ab", "c"), ("a", "bc"), ("abc",), ("a', 'b",), ("a", "b"), ("\udc80",)]
    keys = {c.key(*some) for some in parts} | {c.key(*some) for some in parts}
    with patch.object(c.cache, "environment", lambda: ("another compiler",)):
        keys |= {c.key(*some) for some in parts}
    assert len(keys) == 2 * len(parts) and all(len(key) == 64 and int(key, 16) for key in keys)


def damaged_archives_are_refused(c, folder):
    """Whatever byte changes or is missing: an error, or the very kernel."""
    key, binary = c.key("kernel"), a_binary(c, size=40)
    content = c.encode(binary, key)
    changed = [
        content[:n] + bytes([content[n] ^ bits]) + content[n + 1 :]
        for n in range(len(content))
        for bits in (1, 2, 4, 8, 16, 32, 64, 128, 255)
    ]
    cut = [content[:n] for n in range(len(content))]
    for other in changed + cut:
        try:
            assert c.decode(other, key) == binary
        except ValueError:
            continue
        assert other not in cut


def altered(c, key, **facts):
    """An archive that is intact, with other facts."""
    dumps = json.dumps
    with patch.object(json, "dumps", lambda own, **how: dumps({**own, **facts}, **how)):
        return c.encode(a_binary(c), key)


def what_is_no_kernel_of_this_key_is_a_miss(c, folder):
    key, binary = stored(c)
    (file,) = folder.iterdir()
    content = file.read_bytes()
    others = {
        "empty": b"",
        "cut short": content[: len(content) // 2],
        "random": os.urandom(3000),
        "text": b"something else\n",
        "of another key": c.encode(binary, c.key("another")),
        "an older format": altered(c, key, format=0),
        "a name that is no text": altered(c, key, symbol=5),
        "a count that is no number": altered(c, key, registers="32"),
        "a count that is negative": altered(c, key, registers=-1),
        "one fact more": altered(c, key, more=1),
    }
    for what, other in others.items():
        file.write_bytes(other)
        with warned(1, file):
            assert c.load("kernel", key) is None, what
        stored(c)
        with warned(0):
            assert c.load("kernel", key) == binary, what


def large_files_are_not_read(c, folder):
    key, _ = stored(c)
    (file,) = folder.iterdir()
    os.truncate(file, c.LARGEST + 1)
    with warned(1, file, "too many"):
        assert c.load("kernel", key) is None


def what_is_no_regular_file_is_a_miss(c, folder):
    key, binary = stored(c)
    (file,) = folder.iterdir()
    real = folder.parent / "elsewhere.zip"
    os.replace(file, real)
    loop = folder.parent / "loop"
    loop.symlink_to(loop)
    makers = {
        "a link to an archive": lambda: file.symlink_to(real),
        "a loop of links": lambda: file.symlink_to(loop),
        "a pipe": lambda: os.mkfifo(file),
    }
    for what, make in makers.items():
        make()
        with warned(1, file):
            assert c.load("kernel", key) is None, what
        stored(c)
        with warned(0):
            assert c.load("kernel", key) == binary, what
        file.unlink()
    assert c.decode(real.read_bytes(), key) == binary


def a_folder_in_place_of_a_file_is_a_miss(c, folder):
    key = c.key("kernel")
    c.file_of("kernel", key).mkdir(parents=True)
    with warned(1, c.file_of("kernel", key)):
        assert c.load("kernel", key) is None
    with warned(1, folder):
        c.store("kernel", key, a_binary(c))
        c.store("kernel", key, a_binary(c))
    assert [path.is_dir() for path in folder.iterdir()] == [True]


def files_of_others_are_refused(c, folder):
    """Those of root are not: root need not plant code."""
    key, binary = stored(c)
    (file,) = folder.iterdir()
    user = os.geteuid()
    if user == 0:
        os.chown(file, 12345, -1)
    with patch.object(os, "geteuid", lambda: 0 if user == 0 else user + 1), warned(1, file, "belongs to user"):
        assert c.load("kernel", key) is None
    if user == 0:
        os.chown(file, 0, -1)
        with patch.object(os, "geteuid", lambda: 12345), warned(0):
            assert c.load("kernel", key) == binary


def files_that_others_may_write_are_refused(c, folder):
    key, binary = stored(c)
    (file,) = folder.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700 and file.stat().st_mode & 0o777 == 0o600
    for mode in (0o620, 0o602, 0o666):
        file.chmod(mode)
        with warned(1, file, "others may write it"):
            assert c.load("kernel", key) is None
        with warned(0):
            assert c.clear()[1] == []
        stored(c)
    file.chmod(0o644)
    with warned(0):
        assert c.load("kernel", key) == binary


def what_may_not_be_read_is_a_miss(c, folder):
    key, binary = stored(c)
    (file,) = folder.iterdir()
    with patch.object(os, "open", side_effect=PermissionError(13, "in use")), warned(1, file, "in use"):
        assert c.load("kernel", key) is None
    with warned(0):
        assert c.load("kernel", key) == binary


def what_cannot_be_written_is_one_warning(c, folder):
    folder.write_text("a file in place of the folder")
    key = c.key("kernel")
    with warned(1, folder, "NUMBA_FLASH_CACHE_DIR"):
        for _ in range(3):
            c.store("kernel", key, a_binary(c))
            assert c.load("kernel", key) is None
    assert folder.read_text() == "a file in place of the folder"


def a_full_disk_leaves_nothing_behind(c, folder):
    import resource

    key, binary = stored(c, size=1000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with warned(1, folder, "File too large"):
            c.store("large", key, a_binary(c, size=100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [entry.name for entry in c.entries()] == ["kernel"]
    with warned(0):
        assert c.load("large", key) is None and c.load("kernel", key) == binary


def a_file_in_use_that_is_right_is_no_failure(c, folder):
    """As on Windows, where an open file cannot be replaced."""
    key, binary = stored(c)
    with patch.object(os, "replace", side_effect=PermissionError(13, "in use")):
        with warned(0):
            c.store("kernel", key, binary)
        with warned(1, "in use"):
            c.store("kernel", c.key("another"), binary)
    assert len(list(folder.iterdir())) == 1


def least_recently_used_kernels_go_first(c, folder):
    keys = [stored(c, f"k{n}", n, size=100_000)[0] for n in range(8)]
    for n, key in enumerate(keys):
        set_age(c.file_of(f"k{n}", key), (10 - n) * DAY)
    assert c.load("k0", keys[0]) == a_binary(c, 0, 100_000)  # now it is the latest
    (folder / "notes.txt").write_bytes(bytes(10**6))
    with patch.dict(os.environ, NUMBA_FLASH_CACHE_SIZE="0.5"):
        stored(c, "k8", 8, size=100_000)
    assert {entry.name for entry in c.entries()} == {"k0", "k5", "k6", "k7", "k8"}
    assert (folder / "notes.txt").exists()
    with patch.dict(os.environ, NUMBA_FLASH_CACHE_SIZE="0"):
        stored(c, "k9", 9)
    assert c.entries() == []


def loading_touches_a_file_once_a_day(c, folder):
    key, _ = stored(c)
    (file,) = folder.iterdir()
    for age, touched in ((DAY / 2, False), (2 * DAY, True), (-2 * DAY, True)):
        set_age(file, age)
        c.load("kernel", key)
        assert (abs(time.time() - file.stat().st_mtime) < 60) == touched


def eviction_tolerates_files_that_are_gone(c, folder):
    for n in range(4):
        stored(c, f"k{n}", n)
    found = c.entries()
    os.unlink(found[0].file)
    with patch.object(c.cached_files, "entries", lambda: found), warned(0):
        c.evict(found[3].bytes)
    assert [entry.name for entry in c.entries()] == ["k3"]


def unfinished_files_go_when_they_are_old(c, folder):
    key, _ = stored(c)
    (file,) = folder.iterdir()
    old, new = (folder / f"{file.name}.{name}.tmp" for name in ("abc_1", "def_2"))
    for path in (old, new):
        path.write_bytes(file.read_bytes()[:100])
        path.chmod(0o600)
    set_age(old, 2 * 3600)
    set_age(new, 60)
    with patch.dict(os.environ, NUMBA_FLASH_CACHE_SIZE="0"):
        stored(c, "another")
    assert list(folder.iterdir()) == [new]


def clearing_removes_the_caches_own_files_only(c, folder):
    for n in range(3):
        stored(c, f"k{n}", n)
    archive = c.entries()[0].file.read_bytes()
    hexes = "0123456789abcdef" * 4
    mine = {
        folder / "notes.txt": b"notes",
        folder / f"k-{hexes}.zip": b"PK\x03\x04 another archive",
        folder / f"k-{hexes[:-1]}.zip": archive,
        folder / f"k-{hexes}.zip.bak": archive,
        folder / "more" / f"k-{hexes}.zip": archive,
        folder.parent / "outside.zip": archive,
    }
    (folder / "more").mkdir()
    for path, content in mine.items():
        path.write_bytes(content)
        path.chmod(0o600)
    link, empty = folder / f"link-{hexes}.zip", folder / f"k3-{hexes}.zip"
    if POSIX:
        link.symlink_to(folder.parent / "outside.zip")
        os.symlink(folder.parent, folder / f"folder-{hexes}.zip")
    empty.touch(0o600)
    gone, left = c.clear()
    assert sorted(entry.name for entry in gone) == ["k0", "k1", "k2", "k3"]
    assert sum(entry.bytes for entry in gone) == 3 * len(archive)
    assert [entry.file for entry in left] == [folder / f"k-{hexes}.zip"]
    assert {path: path.read_bytes() for path in mine} == mine
    assert not empty.exists() and link.is_symlink() == POSIX
    assert c.clear() == ([], left)


def a_folder_that_is_a_link_is_used(c, folder):
    elsewhere = folder.parent / "scratch"
    elsewhere.mkdir()
    folder.symlink_to(elsewhere)
    key, binary = stored(c)
    assert c.load("kernel", key) == binary and len(list(elsewhere.iterdir())) == 1
    assert len(c.clear()[0]) == 1 and folder.is_symlink() and not list(elsewhere.iterdir())
