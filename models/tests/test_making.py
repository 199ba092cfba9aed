"""What is made beside its target, and what a maker that was killed leaves there."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from enginebench_models.checkpoint import Checkpoint
from enginebench_models.making import PREFIX, YOUNG_SECONDS, making, whole
from enginebench_models.reference_cache import reference_logits

MAKER = """
import sys, time
from pathlib import Path
from enginebench_models.making import making
with making(Path(sys.argv[1])) as folder:
    (folder / "half").write_bytes(b"x" * 1000)
    print(folder, flush=True)
    time.sleep(1000)
"""


def started(target: Path) -> tuple[subprocess.Popen[str], Path]:
    """A maker at work, for longer than a minute by the time of its folder."""
    maker = subprocess.Popen([sys.executable, "-c", MAKER, str(target)], stdout=subprocess.PIPE, text=True)
    assert maker.stdout is not None
    folder = Path(maker.stdout.readline().strip())
    maker.stdout.close()
    aged(folder)
    return maker, folder


def aged(folder: Path) -> None:
    old = time.time() - 2 * YOUNG_SECONDS
    os.utime(folder, (old, old))


def ended(maker: subprocess.Popen[str]) -> None:
    maker.send_signal(signal.SIGKILL)
    maker.wait()


def test_what_is_renamed_stays_and_the_rest_goes(tmp_path: Path) -> None:
    target = tmp_path / "cache" / "model"
    with making(target) as folder:
        (folder / "rest").touch()
        (folder / "model").write_text("whole")
        (folder / "model").rename(target)
    assert [path.name for path in target.parent.iterdir()] == ["model"]
    assert target.read_text() == "whole"


def test_nothing_stays_of_one_that_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), making(tmp_path / "model") as folder:
        (folder / "half").touch()
        raise ZeroDivisionError
    assert not any(tmp_path.iterdir())


def test_the_next_maker_removes_what_a_killed_one_left_and_spares_one_at_work(tmp_path: Path) -> None:
    maker, folder = started(tmp_path / "model")
    with making(tmp_path / "another"):
        assert (folder / "half").exists()
    ended(maker)
    assert (folder / "half").exists()
    with making(tmp_path / "another"):
        assert not folder.exists()


def test_one_that_was_made_just_now_may_not_be_locked_yet(tmp_path: Path) -> None:
    young = tmp_path / f"{PREFIX}young"
    young.mkdir()
    with making(tmp_path / "model"):
        assert young.exists()
    aged(young)
    with making(tmp_path / "model"):
        assert not young.exists()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine").touch()
    link = tmp_path / f"{PREFIX}link"
    link.symlink_to(elsewhere)
    old = time.time() - 2 * YOUNG_SECONDS
    os.utime(link, (old, old), follow_symlinks=False)
    with making(tmp_path / "model"):
        pass
    assert (elsewhere / "mine").exists()


def test_a_file_has_its_name_when_all_of_it_is_there(tmp_path: Path) -> None:
    path = tmp_path / "answer.json"
    with whole(path) as file:
        file.write(b"{")
        assert not path.exists()
        file.write(b"}")
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("answer.json", b"{}")]


def test_a_file_that_could_not_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "answer.json"
    path.write_bytes(b"old")
    with pytest.raises(KeyError), whole(path) as file:
        file.write(b"new")
        raise KeyError
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("answer.json", b"old")]


def test_reference_logits_that_the_disk_cannot_hold_leave_nothing_there(
    tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: object, values: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("enginebench_models.reference_cache.np.save", full)
    with pytest.raises(OSError, match="No space left"):
        reference_logits(tiny, [1, 2], 1, tmp_path / "reference")
    assert list((tmp_path / "reference").iterdir()) == []
