"""What a process has given up, as it is seen from outside."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from enginebench.machine.sandbox import in_force, sandbox_of

STATUS = "Name:\tpython\nUmask:\t{}\nNoNewPrivs:\t{}\n"
LIMITS = (
    "Limit                     Soft Limit           Hard Limit           Units     \nMax core file size        {}\n"
)


@pytest.mark.parametrize(
    ("umask", "privileges", "core", "words"),
    [
        ("0077", "1", "0                    0                    bytes", "no_new_privs, core 0, umask 077"),
        ("0022", "1", "0                    unlimited            bytes", "no_new_privs"),
        ("0022", "0", "unlimited            unlimited            bytes", "none"),
    ],
)
def test_it_is_read_off_the_kernels_own_account(
    tmp_path: Path, umask: str, privileges: str, core: str, words: str
) -> None:
    folder = tmp_path / "7"
    folder.mkdir()
    (folder / "status").write_text(STATUS.format(umask, privileges))
    (folder / "limits").write_text(LIMITS.format(core))
    assert sandbox_of(7, tmp_path) == words


def test_of_a_process_that_is_gone_nothing_is_said(tmp_path: Path) -> None:
    assert sandbox_of(7, tmp_path) is None


def test_of_this_process_something_can_be_read() -> None:
    assert sandbox_of(os.getpid())


def test_what_can_be_had_here_is_tried() -> None:
    found = in_force()
    assert found["engines"].startswith("no_new_privs, core 0") or Path("/proc/driver/nvidia/version").exists()
    assert found["readers of model files and chat templates"].startswith("no_new_privs, core 0")
