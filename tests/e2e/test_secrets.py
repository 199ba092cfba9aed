"""Secrets planted in the caller's environment and on the command line: no child sees them, nothing writes them down."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from .conftest import Cli

WORD = "planted7f3a91"
PLANTED = {
    **{
        name: f"{name.lower()}-{WORD}"
        for name in (
            "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_API_KEY", "OPENAI_API_KEY", "ANTHROPIC_API_KEY",
            "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "GOOGLE_APPLICATION_CREDENTIALS",
            "GITHUB_TOKEN", "GH_TOKEN", "WANDB_API_KEY", "TWINE_PASSWORD", "DATABASE_URL", "SSH_AUTH_SOCK",
            "OLLAMA_HOST", "GGML_BACKEND_PATH", "OMP_NUM_THREADS", "SOME_TOKEN_THAT_NOBODY_LISTED",
        )
    },
    "http_proxy": f"http://me:{WORD}@127.0.0.1:9",
    "HTTPS_PROXY": f"http://me:{WORD}@127.0.0.1:9",
    "PIP_INDEX_URL": f"https://me:{WORD}@127.0.0.1:9/simple",
    "UV_INDEX_PRIVATE_PASSWORD": WORD,
}  # fmt: skip
"""uv alone gets proxies and what is its own; it is not called here."""


@contextmanager
def watched(process: subprocess.Popen[str]) -> Iterator[dict[str, str]]:
    """Command line → environment of every process below `process`, as long as it runs.

    A child that has not become its program yet is still the parent.
    """
    seen: dict[str, str] = {}
    assert isinstance(process.args, list)
    own = process.args
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            for child in descendants(process.pid):
                try:
                    command = child.cmdline()
                    told = Path(f"/proc/{child.pid}/environ").read_bytes().decode("utf-8", "replace")
                    if command == child.cmdline() != own:
                        seen[f"{child.pid} {' '.join(command)}"] = told
                except (OSError, psutil.Error):
                    continue
            time.sleep(0.005)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def asked(arguments: list[str], environment: dict[str, str]) -> tuple[dict[str, str], str]:
    """What the children saw, and all that was printed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "enginebench", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with watched(process) as seen:
        printed, _ = process.communicate(timeout=120)
    return seen, printed


@pytest.fixture
def planted(cli: Cli, home: dict[str, str]) -> dict[str, str]:
    """With engines that are installed already: uv would have to go through the proxy."""
    assert cli("sync", "fake", "limit").returncode == 0
    return {**home, **PLANTED}


def told_by_git(folder: Path) -> Path:
    """The folder of a `git` that writes down what it sees: the real one is gone before anybody can look at it."""
    folder.mkdir()
    script = folder.with_name("bin") / "git"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nenv > "{folder}/$$"\nexec "{shutil.which("git")}" "$@"\n')
    script.chmod(0o755)
    return script.parent


def test_no_child_of_a_run_sees_a_secret_and_nothing_writes_one_down(planted: dict[str, str], tmp_path: Path) -> None:
    words = ["run", "fake:orphan", "fake:exit", "--model", "tiny", "--preset", "smoke", "--profile", "--debug"]
    login = f"http://me:{WORD}@127.0.0.1:9"
    results, told = tmp_path / "results", tmp_path / "told"
    planted["PATH"] = f"{told_by_git(told)}:{planted['PATH']}"
    seen, printed = asked([*words, "--ollama-host", login, "--results", str(results)], planted)
    seen |= {f"git {path.name}": path.read_text() for path in told.iterdir()}
    for part in ("engine_fake", "watchdog.py", "enginebench_models.validate", "sleep", "git "):
        assert any(part in command for command in seen), f"no {part} among {sorted(seen)}"
    assert not [command for command, environment in seen.items() if WORD in environment]
    assert WORD not in printed
    written = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    assert {"journal", "result.json", "manifest.json"} <= {path.name for path in written}
    assert not [path.name for path, content in written.items() if WORD.encode() in content]


def test_no_child_of_a_prompt_sees_a_secret(planted: dict[str, str]) -> None:
    seen, printed = asked(["prompt", "Hi", "--model", "tiny", "--engine", "fake:echo", "--debug"], planted)
    for part in ("engine_fake", "watchdog.py", "enginebench_models.template_process"):
        assert any(part in command for command in seen), f"no {part} among {sorted(seen)}"
    assert not [command for command, environment in seen.items() if WORD in environment]
    assert WORD not in printed


def test_the_watch_would_see_a_secret(planted: dict[str, str]) -> None:
    """Negative control: a program that passes its whole environment on is found out."""
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(0.5)'])"
    process = subprocess.Popen([sys.executable, "-c", code], env=planted, text=True)
    with watched(process) as seen:
        process.wait()
    assert [command for command, environment in seen.items() if WORD in environment]


def test_a_result_names_neither_user_nor_folders_nor_machine(planted: dict[str, str], tmp_path: Path) -> None:
    words = ["run", "fake:exit", "fake", "--model", "tiny", "--preset", "smoke", "--profile"]
    asked([*words, "--results", str(tmp_path)], planted)
    user = pwd.getpwuid(os.getuid()).pw_name
    folders = [f"{Path.home()}/", str(tmp_path), planted["XDG_CACHE_HOME"]]
    words = [socket.gethostname(), *([user] if user != "root" else [])]
    for path in (path for path in tmp_path.rglob("*") if path.name in ("result.json", "manifest.json")):
        text = path.read_text()
        assert not [folder for folder in folders if folder in text], path.name
        assert not [word for word in words if re.search(rf"\b{re.escape(word)}\b", text)], path.name
    assert list(tmp_path.rglob("result.json"))
