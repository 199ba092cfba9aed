"""`enginebench prompt`: one answer, in a pipe and out of one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import psutil
import pytest

from .conftest import Cli

QUESTION = "Häppy 🙂 question"
GREEDY = ["--model", "tiny", "--temperature", "0", "--engine"]


def test_the_answer_alone_is_on_stdout_and_its_times_are_on_stderr(cli: Cli) -> None:
    done = cli("prompt", QUESTION, *GREEDY, "fake:echo", "--timing")
    assert (done.returncode, done.stdout) == (0, f"user\n\n{QUESTION}\n")  # the chat template, up to its end of turn
    assert "tiny has synthetic weights: the text means nothing" in done.stderr
    for part in ("model: found, and checked", "tokenizer", "engine: load", "tok/s", "one request, no benchmark"):
        assert part in done.stderr
    rows = done.stderr.partition("   token       ms  text\n")[2].splitlines()
    assert len(rows) > 10
    assert [int(row.split()[0]) for row in rows] == list(range(1, len(rows) + 1))


def test_a_prompt_may_come_through_a_pipe_and_plain(home: dict[str, str]) -> None:
    command = [sys.executable, "-m", "enginebench", "prompt", "-", *GREEDY, "fake:echo", "--plain", "-n", "5"]
    done = subprocess.run(command, env=home, input="abcd\n", capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "abcdab\n"), done.stderr  # BOS, ab, cd, BOS, ab


def test_a_reader_that_has_enough_ends_it_without_a_word(home: dict[str, str]) -> None:
    command = [sys.executable, "-m", "enginebench", "prompt", QUESTION, *GREEDY, "fake:slow-echo"]
    with subprocess.Popen(command, env=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert os.read(process.stdout.fileno(), 1)
        process.stdout.close()
        assert process.wait(30) == 0
        assert process.stderr.read() == b""
    assert not left_behind(home)


def left_behind(home: dict[str, str]) -> list[int]:
    """Engines that are alive; their cache tells them from those of other tests that run now."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        ours = (process.info["environ"] or {}).get("XDG_CACHE_HOME") == home["XDG_CACHE_HOME"]
        if ours and "engine_fake" in (process.info["cmdline"] or []):
            found.append(process.pid)
    return found


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["hi", "--engine", "fake:crash"], 1, "fake:crash: killed by signal 11 during reply\n  engine-fake: about to"),
        (["hi", "--engine", "fake:exit"], 1, "fake:exit: exited with code 3 during load"),
        (["hi", "--engine", "faek"], 2, "unknown engine 'faek': did you mean 'fake'?"),
        (["hi", "--engine", "fake", "--model", "tinyy"], 2, "did you mean 'tiny'?"),
        (["hi", "--engine", "fake", "--n-ctx", "4"], 2, "the context is full"),
    ],
)
def test_what_goes_wrong_is_one_line_and_an_exit_code(
    cli: Cli, home: dict[str, str], arguments: Sequence[str], code: int, message: str
) -> None:
    done = cli("prompt", "--model", "tiny", "--temperature", "0", *arguments)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not left_behind(home)


def test_a_terminal_is_asked_for(cli: Cli) -> None:
    done = cli("chat", "fake:echo", "--model", "tiny")
    assert done.returncode == 2
    assert "chat needs a terminal; from a pipe: enginebench prompt -" in done.stderr
