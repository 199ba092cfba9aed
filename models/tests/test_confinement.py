"""What a process that reads files of strangers has given up, tried by one that does what it must not."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from enginebench_models.confinement import landlock_version

TRIES = """
import json, os, socket, sys
from enginebench_models.confinement import confine
folder, port, how = sys.argv[1:]
words = {"not": lambda: "", "reading": confine, "nothing": lambda: confine(reads=False)}[how]()
found = {}

def attempt(name, action):
    try:
        action()
        found[name] = "done"
    except OSError as error:
        found[name] = type(error).__name__

attempt("read", lambda: open("/etc/passwd").close())
attempt("list", lambda: os.listdir("/"))
attempt("write", lambda: open(folder + "/file", "w").close())
attempt("append", lambda: open(folder + "/there", "a").close())
attempt("remove", lambda: os.remove(folder + "/there"))
attempt("folder", lambda: os.mkdir(folder + "/folder"))
attempt("link", lambda: os.symlink("/", folder + "/link"))
attempt("program", lambda: os.posix_spawn("/bin/true", ["true"], {}))
attempt("connect", lambda: socket.create_connection(("127.0.0.1", int(port)), 5).close())
attempt("bind", lambda: socket.socket().bind(("127.0.0.1", 0)))
attempt("signal", lambda: os.kill(os.getppid(), 0))
status = dict(line.split(":", 1) for line in open(3).read().splitlines() if ":" in line)
print(json.dumps([words, found, status["NoNewPrivs"].strip()]))
"""
CHANGES = {"write", "append", "remove", "folder", "link", "program"}


def tried(how: str, folder: Path) -> tuple[str, set[str], str]:
    """The words, what was refused, and whether new privileges are given up."""
    (folder / "there").touch()
    # The process sees its own state through a descriptor that was open before it gave up reading.
    opened = f"import os; os.dup2(os.open('/proc/self/status', os.O_RDONLY), 3)\n{TRIES}"
    with socket.create_server(("127.0.0.1", 0)) as server:
        command = [sys.executable, "-c", opened, str(folder), str(server.getsockname()[1]), how]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    words, found, no_new_privs = json.loads(done.stdout)
    return words, {name for name, outcome in found.items() if outcome == "PermissionError"}, no_new_privs


def since(version: int, *names: str) -> set[str]:
    return set(names) if landlock_version() >= version else set()


needs_landlock = pytest.mark.skipif(landlock_version() == 0, reason="this kernel has no Landlock")


@needs_landlock
def test_who_reads_files_can_change_nothing_start_nothing_and_reach_nobody(tmp_path: Path) -> None:
    words, refused, no_new_privs = tried("reading", tmp_path)
    assert refused == CHANGES | since(4, "connect", "bind") | since(6, "signal")
    assert (words, no_new_privs) == (f"no_new_privs, core 0, landlock {landlock_version()}", "1")


@needs_landlock
def test_who_has_all_it_needs_can_read_nothing_either(tmp_path: Path) -> None:
    assert {"read", "list"} < tried("nothing", tmp_path)[1]


@needs_landlock
def test_nothing_stays_open() -> None:
    program = (
        "import os\nfrom enginebench_models.confinement import confine\n"
        "def opened(): return sorted(os.listdir('/proc/self/fd'))\n"
        "before = opened(); confine(); print(opened() == before)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_a_process_that_gives_nothing_up_can_do_it_all(tmp_path: Path) -> None:
    """Negative control."""
    assert tried("not", tmp_path) == ("", set(), "0")


def test_without_landlock_the_words_do_not_claim_it(monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "from enginebench_models import confinement\nconfinement.landlock_version = lambda library=None: 0\n"
        "print(confinement.confine())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "no_new_privs, core 0"
