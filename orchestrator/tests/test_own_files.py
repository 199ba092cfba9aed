"""What an engine says of its files: nothing that is not its own is read."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from enginebench.errors import UsageError
from enginebench.run.answer import WrongOutput
from enginebench.run.conversation import Conversation
from enginebench.store.result import dumped, read_result

from .test_report import REFERENCE


def told(path: object, scratch: Path) -> Path:
    launch: Any = SimpleNamespace(scratch=scratch)
    return Conversation._own(launch, str(path), "the file of logits")


def test_logits_lie_in_the_scratch_folder_of_the_launch(tmp_path: Path) -> None:
    (tmp_path / "logits.npy").touch()
    assert told(tmp_path / "logits.npy", tmp_path) == tmp_path / "logits.npy"


@pytest.mark.parametrize("path", ["/dev/zero", "/etc/passwd", "/proc/self/environ", "pipe", "none", ".."])
def test_other_files_are_wrong_output_and_never_opened(tmp_path: Path, path: str) -> None:
    """A device has no end, a pipe no beginning: reading either would be the last that the orchestrator does."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WrongOutput, match="the file of logits"):
        told(tmp_path / path, tmp_path)


@pytest.mark.parametrize("place", ["date", "started_at"])
def test_a_result_with_a_date_that_is_none_is_damaged_and_no_fault_of_ours(tmp_path: Path, place: str) -> None:
    result = read_result(REFERENCE)
    if place == "date":
        result["environment"]["date"] = "yesterday"
    else:
        next(case for case in result["cases"] if case["launches"])["launches"][0]["started_at"] = "=now()"
    (tmp_path / "result.json").write_text(dumped(result))
    with pytest.raises(UsageError, match=f"is damaged at .*{place}"):
        read_result(tmp_path / "result.json")
