"""What an engine's process has given up before its engine is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from enginebench_protocol.sandbox import needs_nvidia_modprobe

ENGINE = """
import resource, subprocess, sys
program = ["cat", "/proc/self/status"]
below = subprocess.run(program, capture_output=True, text=True, check=True, env={"PATH": "/bin:/usr/bin"}).stdout
for text in (open("/proc/self/status").read(), below):
    print(sorted(line.split()[1] for line in text.splitlines() if line[:10] in ("NoNewPrivs", "Umask:\\t007")))
print(resource.getrlimit(resource.RLIMIT_CORE))
sys.exit()
"""


def test_an_engine_is_imported_when_all_is_given_up_and_what_it_starts_has_no_more(tmp_path: Path) -> None:
    (tmp_path / "looking.py").write_text(ENGINE)
    program = "from enginebench_protocol.main import run\nrun('looking:Engine')"
    command = [sys.executable, "-c", program, "serve", "--nonce", "n"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert process.stderr.read().splitlines() == ["['0077', '1']", "['0077', '1']", "(0, 0)"]


def test_a_program_that_gives_nothing_up_shows_it(tmp_path: Path) -> None:
    """Negative control."""
    (tmp_path / "looking.py").write_text(ENGINE)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "looking.py")], capture_output=True, text=True, umask=0o22, check=True
    )
    assert done.stdout.splitlines()[0] == "['0']"


@pytest.mark.parametrize(
    ("driver", "memory", "needed"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_cuda_may_make_its_device_files(tmp_path: Path, driver: bool, memory: bool, needed: bool) -> None:
    """By a program that runs as root, which no_new_privs forbids."""
    for name, there in (("driver", driver), ("memory", memory)):
        if there:
            (tmp_path / name).touch()
    assert needs_nvidia_modprobe(tmp_path / "driver", tmp_path / "memory") is needed
