"""One conformance suite for both implementations of `Directory`, and what the simulated one does besides."""

from __future__ import annotations

import errno
import stat
from pathlib import Path
from random import Random

import pytest

from pbft.storage.files import Directory, RealDirectory, remove_temporaries, replace_file
from pbft.storage.simulated_files import SimulatedCrash, SimulatedDirectory


@pytest.fixture(params=["real", "simulated"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Directory:
    return RealDirectory(tmp_path / "data") if request.param == "real" else SimulatedDirectory()


def put(directory: Directory, name: str, content: bytes) -> None:
    file = directory.open_append(name)
    file.write(content)
    file.sync()
    file.close()


def test_appends_continue_at_the_end_of_the_file(directory: Directory) -> None:
    """Opening again appends after what is there."""
    put(directory, "a", b"one")
    put(directory, "a", b"two")
    assert directory.read("a", 0, 100) == b"onetwo"
    assert directory.size("a") == 6


def test_reads_are_cut_at_the_end(directory: Directory) -> None:
    """A read gives what there is, however much is asked for."""
    put(directory, "a", b"0123456789")
    assert directory.read("a", 7, 1 << 40) == b"789"
    assert directory.read("a", 10, 5) == b""
    assert directory.read("a", 99, 5) == b""
    assert directory.read("a", 2, 3) == b"234"


def test_preallocated_space_is_zero_and_is_written_into(directory: Directory) -> None:
    """Space made ahead reads as zeros and does not move the place of the next write."""
    file = directory.open_append("a")
    file.write(b"x")
    file.preallocate(10)
    file.preallocate(5)
    file.write(b"yz")
    file.sync()
    file.close()
    assert directory.read("a", 0, 100) == b"xyz" + bytes(7)


def test_a_write_beyond_preallocated_space_makes_the_file_longer(directory: Directory) -> None:
    """Preallocation is no limit."""
    file = directory.open_append("a")
    file.preallocate(3)
    file.write(b"12345")
    file.close()
    assert directory.read("a", 0, 100) == b"12345"


def test_names_are_listed_renamed_and_removed(directory: Directory) -> None:
    """A rename replaces; the list is sorted."""
    for name in ("b", "a", "c"):
        put(directory, name, name.encode())
    directory.rename("c", "a")
    directory.sync_directory()
    assert directory.list() == ["a", "b"]
    assert directory.read("a", 0, 9) == b"c"
    directory.remove("b")
    assert directory.list() == ["a"]


def test_missing_files_are_file_not_found(directory: Directory) -> None:
    """All operations that need a file say so when it is missing."""
    for operation in (
        lambda: directory.read("x", 0, 1),
        lambda: directory.size("x"),
        lambda: directory.remove("x"),
        lambda: directory.rename("x", "y"),
        lambda: directory.truncate("x", 0, 0),
    ):
        with pytest.raises(FileNotFoundError):
            operation()


def test_truncate_cuts_and_the_next_append_follows(directory: Directory) -> None:
    """After a cut, appending goes on at the cut."""
    put(directory, "a", b"0123456789")
    directory.truncate("a", 4, 4)
    put(directory, "a", b"x")
    assert directory.read("a", 0, 100) == b"0123x"


def test_replace_file_gives_the_new_content_despite_a_leftover(directory: Directory) -> None:
    """A half written temporary file does not get into the new content."""
    put(directory, "a.tmp", b"rubbish")
    replace_file(directory, "a", b"one")
    replace_file(directory, "a", b"two")
    assert directory.list() == ["a"]
    assert directory.read("a", 0, 9) == b"two"


def test_temporaries_of_one_prefix_are_removed(directory: Directory) -> None:
    """Only names with that prefix and the temporary suffix go."""
    for name in ("log-1", "log-2.tmp", "other.tmp"):
        put(directory, name, b"")
    remove_temporaries(directory, "log-")
    assert directory.list() == ["log-1", "other.tmp"]


def test_real_files_are_private(tmp_path: Path) -> None:
    """Files have mode 0600 and the directory 0700; sub-directories and links are not listed."""
    directory = RealDirectory(tmp_path / "deep" / "data")
    put(directory, "a", b"x")
    (directory.path / "sub").mkdir()
    (directory.path / "link").symlink_to("a")
    assert directory.list() == ["a"]
    assert stat.S_IMODE((directory.path / "a").stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700
    with pytest.raises(OSError, match="link"):
        directory.open_append("link")


def test_a_crash_loses_what_was_not_synced() -> None:
    """Unsynced bytes, creations and renames are gone; synced ones stay."""
    directory = SimulatedDirectory()
    put(directory, "a", b"one")
    directory.sync_directory()
    file = directory.open_append("a")
    file.write(b"two")
    put(directory, "b", b"x")
    directory.rename("b", "c")
    directory.crash()
    assert directory.list() == ["a"]
    assert directory.read("a", 0, 9) == b"one"


def test_a_seeded_crash_keeps_any_part_of_what_was_not_synced() -> None:
    """Over many seeds the file is seen old, new, torn, and with lost sectors before kept ones; never anything
    else."""
    seen = set()
    for seed in range(200):
        directory = SimulatedDirectory()
        put(directory, "a", b"s" * 100)
        directory.sync_directory()
        directory.open_append("a").write(b"n" * 1500)
        directory.crash(Random(seed))
        content = directory.read("a", 0, 5000)
        assert content.startswith(b"s" * 100)
        rest = content[100:]
        assert set(rest) <= set(b"n\0")
        seen.add("old" if not rest else "new" if rest == b"n" * 1500 else "holes" if 0 in rest else "torn")
    assert seen == {"old", "new", "holes", "torn"}


def test_a_failed_sync_loses_its_data_although_the_next_one_succeeds() -> None:
    """After EIO the data stay readable, a second sync returns, and a crash shows that nothing was written."""
    directory = SimulatedDirectory()
    file = directory.open_append("a")
    directory.sync_directory()
    file.write(b"data")
    directory.faults.fail(directory.faults.operations + 1, errno.EIO)
    with pytest.raises(OSError, match="a"):
        file.sync()
    file.sync()
    assert directory.read("a", 0, 9) == b"data"
    directory.crash()
    assert directory.read("a", 0, 9) == b""


def test_space_runs_out() -> None:
    """Beyond the limit a write raises ENOSPC."""
    directory = SimulatedDirectory()
    directory.faults.limit_space(10)
    file = directory.open_append("a")
    file.write(b"12345678")
    with pytest.raises(OSError) as raised:
        file.write(b"12345678")
    assert raised.value.errno == errno.ENOSPC


def test_from_the_crash_on_every_operation_stops() -> None:
    """A crash point stops that operation and all later ones, until the crash is carried out."""
    directory = SimulatedDirectory()
    directory.faults.crash_at = 2
    file = directory.open_append("a")
    for operation in (lambda: file.write(b"x"), lambda: directory.read("a", 0, 1), directory.sync_directory):
        with pytest.raises(SimulatedCrash):
            operation()
    directory.crash()
    assert directory.list() == []
