"""One launch of the engine under test: started, taken through its steps, ended, whatever happens.

A step that finds a violation fails alone; one that finds the stream broken makes the rest of its launch unreachable.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from enginebench_models.errors import ModelError
from enginebench_protocol.client import Client
from enginebench_protocol.errors import EngineFailure, ProtocolError
from enginebench_protocol.framing import FrameStream
from enginebench_protocol.host import default_device, default_threads
from enginebench_protocol.messages import Hello

from enginebench.run.guard import Watchdog
from enginebench.run.passed_on import engine_environment
from enginebench.run.process import ChildProcess
from enginebench.workspace.discovery import EngineInfo

N_CTX = 64
HELLO_SECONDS, END_SECONDS = 180.0, 5.0


@dataclass(frozen=True)
class Check:
    """One point of the specification. `detail` says what was found, or why the point does not apply."""

    name: str
    passed: bool
    detail: str = ""


class Violation(Exception):
    """The engine answered, but not as the specification says."""


class NotApplicable(Exception):
    """The point does not concern this kind of engine."""


class Step(NamedTuple):
    """One check. Without a `vital` one the rest of the launch makes no sense."""

    name: str
    take: Callable[[], None]
    vital: bool = False


@dataclass(frozen=True)
class Subject:
    """The engine under test, and what is known of it beforehand."""

    command: tuple[str, ...]
    model_path: Path
    info: EngineInfo | None
    configuration: str | None
    watchdog: Watchdog | None

    @property
    def role(self) -> str:
        return self.info.role if self.info is not None else "engine"

    @property
    def device(self) -> str:
        return "cpu" if self.info is not None and self.info.gpu == "none" else default_device()


class Launch(ABC):
    """One process of the subject. `checks` starts it, takes the steps and ends it, whatever happens."""

    def __init__(self, subject: Subject, scratch: Path) -> None:
        self.subject = subject
        self.scratch = scratch
        self.nonce = secrets.token_hex(16)
        self.child: ChildProcess
        self.client: Client
        self.hello: Hello

    @abstractmethod
    def steps(self) -> list[Step]:
        """What this launch checks, in order."""

    def checks(self) -> list[Check]:
        environment = engine_environment({"TMPDIR": str(self.scratch)})
        command = [*self.subject.command, "serve", "--nonce", self.nonce]
        try:
            self.child = ChildProcess(command, environment, self.scratch, self.subject.watchdog)
        except OSError as error:
            return [Check("the program starts", False, str(error))]
        try:
            self.client = Client(FrameStream(self.child.read_fd, self.child.write_fd))
            return list(self._taken(self.steps()))
        finally:
            self.child.close(grace=0.1)

    def _taken(self, steps: list[Step]) -> Iterator[Check]:
        broken = ""
        for step in steps:
            if broken:
                yield Check(step.name, False, f"not reached: {broken}")
                continue
            check, alive = self._take(step)
            yield check
            broken = "" if check.passed or (alive and not step.vital) else f"{step.name}: {check.detail}"

    def _take(self, step: Step) -> tuple[Check, bool]:
        """The outcome of one step, and whether the stream can still be used."""
        try:
            step.take()
        except NotApplicable as reason:
            return Check(step.name, True, f"not applicable: {reason}"), True
        except (Violation, EngineFailure, ModelError, ValueError, LookupError) as error:
            return Check(step.name, False, str(error)), True
        except (ProtocolError, OSError) as error:
            return Check(step.name, False, f"{type(error).__name__}: {error}{self._last_words()}"), False
        return Check(step.name, True), True

    def _last_words(self) -> str:
        self.child.wait(0.2)
        lines = self.child.last_lines()
        return f"; stderr ends: {lines[-1]}" if lines else ""

    # ---- what several launches need ---------------------------------------------------------------------------

    def greet(self) -> None:
        name = self.subject.info.name if self.subject.info is not None else None
        self.hello = self.client.hello(name, self.nonce, HELLO_SECONDS)
        require(self.hello.pid == self.child.pid, f"pid {self.hello.pid}, the process is {self.child.pid}")
        require(bool(self.hello.configurations), "no configuration at all")

    def load_fields(self) -> dict[str, Any]:
        cache = self.scratch / "cache"
        cache.mkdir(exist_ok=True)
        return {
            "configuration": self.subject.configuration or next(iter(self.hello.configurations)),
            "model_path": str(self.subject.model_path),
            "n_ctx": N_CTX,
            "device": self.subject.device,
            "threads": default_threads(),
            "cache": str(cache),
            "scratch": str(self.scratch),
        }

    def ends(self, allowed: str, accept: Callable[[int], bool]) -> None:
        code = self.child.wait(END_SECONDS)
        if code is None:
            raise Violation(f"still running after {END_SECONDS:g} s")
        require(accept(code), f"exit code {code} instead of {allowed}")

    def close_requests(self) -> None:
        assert self.child.popen.stdin is not None
        self.child.popen.stdin.close()


def require(condition: bool, otherwise: str) -> None:
    """Raises Violation(otherwise)."""
    if not condition:
        raise Violation(otherwise)
