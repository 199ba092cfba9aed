"""What ended a launch before its time, as a record: a closed set of reasons, from what was raised and how it exited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from enginebench_protocol.errors import (
    DeadlineExceeded,
    EngineFailure,
    HandshakeError,
    StreamClosed,
    Truncated,
)
from enginebench_protocol.out_of_memory import HOST

from enginebench.store.record import Failure, FailureReason

from .answer import WrongOutput
from .process import Ending
from .vigil import Hang

LAST_WORDS = ("MemoryError", "numpy._core._exceptions._ArrayMemoryError", "  what():  std::bad_alloc")
"""How a process ends its stderr that found no memory and gave up: Python's traceback, C++'s terminate."""


@dataclass(frozen=True)
class Scene:
    """What is known of a launch that broke off, besides what was raised."""

    stage: str
    ending: Ending
    last_lines: Sequence[str] = ()
    device: str = "cpu"
    oom_killed: bool = False
    """The kernel's counters tell of a process of the engine that was killed for want of memory."""


def failure_of(error: Exception, scene: Scene) -> Failure:
    ended = scene.ending.code if scene.ending.by_itself else None
    hint, detail = (error.hint, error.detail) if isinstance(error, EngineFailure) else ("", "")
    reason, message = _reason(error, scene, ended)
    return Failure(
        reason=reason,
        message=message,
        hint=hint,
        detail=detail,
        stage=scene.stage,
        exit_code=ended if ended is not None and ended >= 0 else None,
        signal=-ended if ended is not None and ended < 0 else None,
        stderr_tail=list(scene.last_lines),
        out_of=_out_of(message, scene.device) if reason == "out-of-memory" else "",
        ended_with=scene.ending.ended_with,
    )


def _reason(error: Exception, scene: Scene, ended: int | None) -> tuple[FailureReason, str]:
    match error:
        case StreamClosed() | Truncated():
            return _stream_end(error, scene, ended)
        case DeadlineExceeded():
            late: FailureReason = "hang" if isinstance(error, Hang) else "deadline"
            return "hello-timeout" if scene.stage == "hello" else late, str(error)
        case EngineFailure():
            return _told(error, scene)
        case HandshakeError():
            return "handshake", str(error)
    return "wrong-output" if isinstance(error, WrongOutput) else "protocol-error", str(error)


def _stream_end(error: StreamClosed | Truncated, scene: Scene, ended: int | None) -> tuple[FailureReason, str]:
    """A signal explains a stream that ends, in a frame too; an orderly exit does not explain half a frame."""
    if words := "killed by the kernel" if scene.oom_killed else ended and _memory_words(scene.last_lines):
        return "out-of-memory", f"{HOST}: {words}"
    if ended is not None and ended < 0:
        return "signal", f"killed by signal {-ended}"
    if isinstance(error, Truncated):
        return "truncated", str(error)
    return ("closed", "closed its stream, and lives on") if ended is None else ("exit", f"exited with code {ended}")


def _told(failure: EngineFailure, scene: Scene) -> tuple[FailureReason, str]:
    """An engine that says itself that it cannot."""
    if scene.oom_killed:
        return "out-of-memory", f"{HOST}: a process of the engine was killed by the kernel: {failure}"
    match failure.code:
        case "out-of-memory":
            return "out-of-memory", failure.message
        case "unsupported":
            return "unsupported", failure.message
        case _:
            return "engine-failure", f"{failure.code}: {failure.message}"


def _out_of(message: str, device: str) -> Literal["host", "device"]:
    return "device" if device == "cuda" and not message.startswith(HOST) else "host"


def _memory_words(last_lines: Sequence[str]) -> str | None:
    return next((line.strip() for line in reversed(last_lines) if line.startswith(LAST_WORDS)), None)
