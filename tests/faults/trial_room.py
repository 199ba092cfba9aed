"""Where a trial takes place: warm caches for all, and for each a folder, an orchestrator and a stand-in engine.

The stand-in (stand_in.py) stops where it is told; what the orchestrator does by itself is caught by looking at its
children and files.
"""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
from enginebench.store.result import read_result
from enginebench.workspace import discovery, environment
from leftovers import has_child
from stand_in import Left, Plan
from trial import IN_SECOND_LAUNCH, JUDGED, WHOLE, Trial, state_of_engine

REACH_SECONDS = 60.0
VOCABULARY = 4_096  # of the model tiny; an engine that tells of another one is refused
POLL_SECONDS = 0.01
EDITOR = b"\x1b[0m>"
"""The chat waits for a line."""


class Stage:
    """Where trials take place: caches that are warm, a folder for each."""

    def __init__(self, folder: Path, program: Sequence[str] = ("-m", "enginebench")) -> None:
        """`program`: what the interpreter is given, before the words of the command line."""
        self.folder = folder
        self.program = program
        self.spared: set[int] = set()
        """Children of ours that belong to no trial."""
        self.cache = folder / "cache"
        self.cache.mkdir(parents=True)
        self.count = 0
        self._warm_up()
        self.unsynced = next(iter(unsynced()), None)

    def _warm_up(self) -> None:
        """A run that nobody kills makes the model, and the environments that it needs. Raises RuntimeError."""
        room = self.room(WHOLE)
        process = room.start()
        if process.wait(REACH_SECONDS * 5) != 0:
            print(f"a run that nobody killed: exit {process.returncode}: {room.reasons()}", file=sys.stderr)
        if not any(room.results.glob("*/result.json")):
            raise RuntimeError(f"a run that nobody killed has no result: {room.log()}")
        room.close()

    def room(self, trial: Trial) -> Room:
        self.count += 1
        return Room(self, trial, self.folder / f"trial-{self.count}")


class Room:
    """One trial: its plan, its temporary folder, its orchestrator."""

    def __init__(self, stage: Stage, trial: Trial, folder: Path) -> None:
        self.stage, self.trial, self.folder = stage, trial, folder
        self.temporary = folder / "tmp"
        self.results = folder / "runs"
        for made in (self.temporary, folder / "bin"):
            made.mkdir(parents=True)
        self.engine = "tinygrad" if trial.state in JUDGED else "fake"
        plan = Plan(
            engine=self.engine,
            configurations=["default", "echo"],
            vocab_size=VOCABULARY,
            state=state_of_engine(trial.state),
            launch=2 if trial.state in IN_SECOND_LAUNCH else 3 if trial.state == "profile" else 1,
            stands=trial.stands,
            leaves=list(trial.leaves),
        )
        (folder / "plan.json").write_bytes(msgspec.json.encode(plan))
        for name in ("python", "uv"):
            wrapper = folder / "bin" / name
            script = Path(__file__).with_name("stand_in.py")
            wrapper.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "{folder}/plan.json" "$@"\n')
            wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
        self.terminal: int | None = None

    @property
    def environment(self) -> dict[str, str]:
        own = {"TMPDIR": str(self.temporary), "XDG_CACHE_HOME": str(self.stage.cache), "TERM": "xterm-256color"}
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}" if self.trial.state == "sync" else os.environ["PATH"]
        return {**os.environ, **own, "PATH": path, "XDG_STATE_HOME": str(self.folder / "state")}

    def words(self) -> list[str]:
        """Of the command line."""
        state = self.trial.state
        engine = self.stage.unsynced if state == "sync" else self.engine
        python = [] if state == "sync" else ["--python", f"engine-{self.engine}={self.folder / 'bin' / 'python'}"]
        common = [*python, "--model", "tiny"]
        if state.startswith("prompt"):
            return ["prompt", "a question", "--engine", self.engine, *common]
        if state.startswith("chat"):
            return ["chat", self.engine, *common]
        if state.startswith("conform"):
            return ["conform", str(self.folder / "bin" / "python"), "--model", "tiny"]
        profile = ["--profile"] if state == "profile" else []
        return ["run", str(engine), *common, "--preset", "smoke", "--results", str(self.results), *profile]

    def start(self, words: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """`words`: of another command line than its own."""
        command = [sys.executable, *self.stage.program, *(words or self.words())]
        if not self.trial.state.startswith("chat"):
            with (self.folder / "log").open("wb") as log:
                return subprocess.Popen(
                    command,
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        self.terminal, slave = pty.openpty()
        process = subprocess.Popen(
            ["setsid", "--ctty", *command], env=self.environment, stdin=slave, stdout=slave, stderr=slave
        )
        os.close(slave)
        return process

    def reach(self, process: subprocess.Popen[bytes]) -> None:
        """Returns when the state is there. Raises NotReached."""
        state = self.trial.state
        if state in ("start", "anywhere"):
            return
        if state == "model check":
            self._until(process, lambda: has_child(process.pid, "enginebench_models.validate"))
        elif state == "watchdog starts":
            self._until(process, lambda: has_child(process.pid, "watchdog.py"))
        elif state == "result":
            self._until(process, lambda: any(self.results.glob("*/*result.json*")))
        elif state == "chat idle":
            self._until(process, lambda: EDITOR in self._screen())
        elif state == "chat answer":
            self._until(process, lambda: EDITOR in self._screen())
            assert self.terminal is not None
            os.write(self.terminal, b"a question\r")
            self._until(process, self._arrived)
        else:
            self._until(process, self._arrived)

    def _arrived(self) -> bool:
        self._screen()
        return (self.folder / "arrived").exists()

    def _screen(self) -> bytes:
        """What has come on the terminal, which must be read lest its writer waits."""
        if self.terminal is None:
            return b""
        os.set_blocking(self.terminal, False)
        with contextlib.suppress(OSError), (self.folder / "log").open("ab") as log:
            log.write(os.read(self.terminal, 65536))
        return (self.folder / "log").read_bytes()

    def _until(self, process: subprocess.Popen[bytes], reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + REACH_SECONDS
        while not reached():
            if process.poll() is not None:
                raise NotReached(f"exit {process.returncode}: {self.log()}")
            if time.monotonic() > deadline:
                raise NotReached(f"not after {REACH_SECONDS:g} s: {self.log()}")
            time.sleep(POLL_SECONDS)

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-400:]

    def reasons(self) -> str:
        """Why cases of its run have no numbers."""
        cases = [case for path in self.results.glob("*/result.json") for case in read_result(path)["cases"]]
        return "; ".join(f"{case['engine']}: {case['reason']}" for case in cases if case["status"] != "ok")

    def left(self) -> Left:
        with contextlib.suppress(OSError):
            return msgspec.json.decode((self.folder / "arrived").read_bytes(), type=Left)
        return Left()

    def close(self) -> None:
        if self.terminal is not None:
            with contextlib.suppress(OSError):
                os.close(self.terminal)
            self.terminal = None
        shutil.rmtree(self.folder, ignore_errors=True)


class NotReached(Exception):
    """The orchestrator ended, or hung, before the state that was wanted."""


def unsynced() -> Iterator[str]:
    """Engines without an environment: what installs one can be tried on them alone."""
    for info in discovery.discover().values():
        if not environment.is_synced(info) and discovery.unavailable_reason(info, None, "cpu") is None:
            yield info.name
