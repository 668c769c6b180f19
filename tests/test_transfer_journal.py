"""The file that keeps what has come of a state: whatever happens to it, no more than its whole beginning is used."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_transfer import Play, is_that, some, state_at

from pbft.execution import ExecutionSnapshot
from pbft.transfer import Entry
from pbft.transfer_journal import NAME, TransferJournal

TARGET = state_at(128, keys=300)
BASE = state_at(0, keys=300, changed=20)


def journal_of(pieces: int) -> list[Entry]:
    """Of a transfer that was cut off after so many."""
    play = Play(TARGET)
    some(play, pieces)
    assert play.run(TARGET, 0.5) is None
    return play.journal


def written(folder: Path, entries: list[Entry], base: ExecutionSnapshot | None = None) -> Path:
    """A file with these."""
    journal = TransferJournal(folder)
    assert journal.begin(base).applied == 0
    journal.append(entries)
    journal.close()
    return folder / NAME


def test_what_was_kept_is_there_again_and_goes_on(tmp_path: Path) -> None:
    """In a second and a third life."""
    entries = journal_of(20)
    written(tmp_path, entries[:10])
    second = TransferJournal(tmp_path)
    assert second.begin(None).applied == 10
    second.append(entries[10:])
    second.close()
    third = TransferJournal(tmp_path)
    play = Play(TARGET)
    play._prepare = lambda: play.here.on_prepared(third.begin(None))  # type: ignore[method-assign]
    play.here._prepare = play._prepare
    assert is_that(play.run(TARGET, 5.0), TARGET)
    kept = {entry.want for entry in entries[1:]}  # type: ignore[union-attr]
    assert not kept & {tuple(want) for _, message in play.asked for want in message.wanted}
    third.remove()
    assert not (tmp_path / NAME).exists()


def test_a_file_that_is_cut_anywhere_gives_its_whole_beginning(tmp_path: Path) -> None:
    """And goes on behind it."""
    entries = journal_of(6)
    path = written(tmp_path, entries)
    whole = path.read_bytes()
    applied = set()
    for length in range(0, len(whole) + 1, 13):
        path.write_bytes(whole[:length])
        again = TransferJournal(tmp_path)
        found = again.begin(None)
        applied.add(found.applied)
        again.append(entries[found.applied :])
        again.close()
        assert path.read_bytes() == whole
    assert applied == set(range(len(entries) + 1)) - {len(entries)} or applied == set(range(len(entries) + 1))


def test_a_flipped_bit_ends_it_and_raises_nothing(tmp_path: Path) -> None:
    """Wherever it is; also where the length of a frame grows beyond all bounds."""
    entries = journal_of(6)
    path = written(tmp_path, entries)
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x80]) + whole[place + 1 :])
        again = TransferJournal(tmp_path)
        assert again.begin(None).applied < len(entries)
        again.close()


@pytest.mark.parametrize("junk", [b"", b"\xff" * 4096, b"a state\n" * 100], ids=["empty", "ones", "text"])
def test_a_foreign_file_is_begun_anew(tmp_path: Path, junk: bytes) -> None:
    """As is one that belongs to another base."""
    (tmp_path / NAME).write_bytes(junk)
    written(tmp_path, journal_of(6))
    other = TransferJournal(tmp_path)
    assert other.begin(BASE).applied == 0
    other.close()
    again = TransferJournal(tmp_path)
    assert again.begin(None).applied == 0, "the first is gone"
    again.close()


def test_a_disk_that_refuses_is_no_reason_to_stop(tmp_path: Path) -> None:
    """Then nothing is kept."""
    (tmp_path / NAME).mkdir()
    journal = TransferJournal(tmp_path)
    assert journal.begin(None).applied == 0
    journal.append(journal_of(3))
    journal.remove()
