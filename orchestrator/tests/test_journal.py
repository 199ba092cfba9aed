"""What was appended is read back; what was torn or edited is named and left out."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from enginebench.errors import UsageError
from enginebench.store import files
from enginebench.store.journal import SCHEMA_VERSION, Journal, read_journal

HEADER = {"run_id": "r1", "plan": {"seed": 0}, "environment": {}}


def written(path: Path, records: Any, launches: int = 3) -> list[Any]:
    expected = [records.timed([records.request(0, (1, 2, 3))], block=block) for block in range(launches)]
    with Journal.create(path, HEADER) as journal:
        for launch in expected:
            journal.append(launch)
    return expected


def test_everything_appended_is_read_back(tmp_path: Path, records: Any) -> None:
    expected = written(tmp_path / "journal", records)
    content = read_journal(tmp_path / "journal")
    assert content.launches == expected
    assert content.header == {"schema_version": SCHEMA_VERSION, "pid": os.getpid(), **HEADER}
    assert content.damaged == []


def test_an_existing_journal_is_never_overwritten(tmp_path: Path, records: Any) -> None:
    written(tmp_path / "journal", records)
    with pytest.raises(FileExistsError):
        Journal.create(tmp_path / "journal", HEADER)


def test_a_journal_that_somebody_locked_the_moment_it_was_made_is_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`run --resume` of a run that begins."""
    monkeypatch.setattr(files, "lock", lambda _: False)
    with pytest.raises(UsageError, match="another enginebench is at work"):
        Journal.create(tmp_path / "journal", HEADER)
    assert (tmp_path / "journal").read_bytes() == b""


@pytest.mark.parametrize("cut", [1, 10, 300])
def test_a_torn_tail_is_reported_and_cut_on_reopening(tmp_path: Path, records: Any, cut: int) -> None:
    path = tmp_path / "journal"
    expected = written(path, records)
    path.write_bytes(path.read_bytes()[:-cut])
    assert [damage.number for damage in read_journal(path).damaged] == [4]
    journal, content = Journal.reopen(path)
    with journal:
        journal.append(expected[2])
    assert content.launches == expected[:2]
    assert read_journal(path).launches == expected
    assert read_journal(path).damaged == []


def test_reopening_a_whole_journal_cuts_nothing(tmp_path: Path, records: Any) -> None:
    path = tmp_path / "journal"
    written(path, records)
    before = path.read_bytes()
    journal, content = Journal.reopen(path)
    journal.close()
    assert path.read_bytes() == before
    assert len(content.launches) == 3


def test_a_changed_number_is_found_and_the_record_left_out(tmp_path: Path, records: Any) -> None:
    path = tmp_path / "journal"
    expected = written(path, records)
    lines = path.read_bytes().split(b"\n")
    lines[2] = lines[2].replace(b"2000000", b"1000000")
    path.write_bytes(b"\n".join(lines))
    content = read_journal(path)
    assert content.launches == [expected[0], expected[2]]
    assert [str(damage) for damage in content.damaged] == ["line 3: edited: the checksum does not hold"]


@pytest.mark.parametrize("position", [0, 9, 17, 18, 200])
def test_any_flipped_bit_is_found(tmp_path: Path, records: Any, position: int) -> None:
    path = tmp_path / "journal"
    written(path, records)
    lines = path.read_bytes().split(b"\n")
    changed = bytearray(lines[1])
    changed[position] ^= 1
    lines[1] = bytes(changed)
    path.write_bytes(b"\n".join(lines))
    content = read_journal(path)
    assert [damage.number for damage in content.damaged] == [2]
    assert len(content.launches) == 2


def test_a_record_of_another_kind_is_reported_not_taken(tmp_path: Path, records: Any) -> None:
    path = tmp_path / "journal"
    written(path, records, launches=1)
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*lines[:2], lines[0], b""]))
    content = read_journal(path)
    assert [damage.number for damage in content.damaged] == [3]
    assert len(content.launches) == 1


@pytest.mark.parametrize("content", [b"", b"{}", b"\n", b"not a journal\n", b"\x00\xff\n"])
def test_what_is_no_journal_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "journal"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="is no journal"):
        read_journal(path)


def test_a_journal_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    Journal.create(path, {**HEADER, "schema_version": SCHEMA_VERSION + 1}).close()
    with pytest.raises(UsageError, match="update enginebench"):
        read_journal(path)


def test_a_record_is_one_line_of_json_behind_its_checksum(tmp_path: Path, records: Any) -> None:
    path = tmp_path / "journal"
    written(path, records, launches=1)
    line = path.read_bytes().split(b"\n")[1]
    assert json.loads(line[18:])["kind"] == "timed"
    assert int(line[:8], 16) == len(line[18:])


def test_a_message_with_line_breaks_stays_one_record(tmp_path: Path, records: Any) -> None:
    launch = records.timed([], failure=records.failure(message="one\ntwo\r\nthree\u2028four"))
    with Journal.create(tmp_path / "journal", HEADER) as journal:
        journal.append(launch)
    assert read_journal(tmp_path / "journal").launches == [launch]
