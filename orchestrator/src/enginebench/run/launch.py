"""One launch: spawn the engine, say hello, load, ask, shut down, and write down what happened.

Five kinds. A `check` launch admits a case: memory is sampled from outside over load and two requests, then the logits
of the fidelity probe are taken; nothing of it counts as speed. A `timed` launch has no observer but the clock. A `cold`
launch is a timed one that found its model on the disk alone, and ends with its warm-up. An `energy` launch counts
joules over requests whose time counts for nothing, a `profile` launch runs one under the engine's own profiler.
"""

from __future__ import annotations

import datetime as dt
import secrets
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from enginebench_protocol.errors import EngineFailure, ProtocolError, StreamClosed, Truncated

from enginebench.machine.gates import doubts
from enginebench.machine.memory_pass import MemoryPass
from enginebench.machine.oom import OomKills
from enginebench.machine.watch import LaunchWatch
from enginebench.store.record import Failure, FidelityReading, Kind, Launch, LoadedFacts, Request
from enginebench.workspace.environment import Interpreter

from .answer import WrongOutput
from .conversation import Conversation, Say
from .failure import Scene, failure_of
from .guard import Watchdog
from .order import LaunchOrder
from .process import ChildProcess, Ending
from .vigil import Hang

Judge = Callable[[Path, str, int, LoadedFacts], FidelityReading]
"""judge(logits.npy, sha256, n_rows, what was loaded)"""


@dataclass
class _Found:
    """What is known of a launch: one that fails half-way keeps it."""

    facts: dict[str, Any] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    failure: Failure | None = None
    ended: str = ""
    remains: list[str] = field(default_factory=list)


def run_launch(
    order: LaunchOrder, interpreter: Interpreter, say: Say, watchdog: Watchdog | None = None, judge: Judge | None = None
) -> Launch:
    """Never raises for what an engine does: a failure is part of the record."""
    started_at = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    started_ns = time.perf_counter_ns()
    watch = LaunchWatch(order.watch) if order.watch is not None else None
    within = watchdog.folder if watchdog else None
    with tempfile.TemporaryDirectory(prefix="launch-", dir=within) as scratch:
        found = _attempt(order, interpreter, say, watchdog, judge, Path(scratch), watch)
    return Launch(
        case=order.case,
        kind=order.kind,
        block=order.block,
        order=order.order,
        started_at=started_at,
        duration_ns=time.perf_counter_ns() - started_ns,
        failure=found.failure,
        requests=found.requests,
        **_around(watch, order.kind),
        start_state=order.start_state,
        ended=found.ended,
        remains=found.remains,
        **found.facts,
    )


def _around(watch: LaunchWatch | None, kind: Kind) -> dict[str, Any]:
    """Doubts are about times and joules: a check has neither, and a cold start is meant to wait for the disk."""
    if watch is None:
        return {}
    return {"noise": watch.noise, "doubts": doubts(watch.noise) if kind in ("timed", "energy") else []}


def _attempt(
    order: LaunchOrder,
    interpreter: Interpreter,
    say: Say,
    watchdog: Watchdog | None,
    judge: Judge | None,
    scratch: Path,
    watch: LaunchWatch | None,
) -> _Found:
    nonce = secrets.token_hex(16)
    environment = {**interpreter.environment, "TMPDIR": str(scratch)}
    command, kills = interpreter.command(order.module, nonce), OomKills.read()
    try:
        child = ChildProcess(command, environment, scratch, watchdog, order.tell, order.limits.ladder)
    except OSError as not_started:
        return _Found(failure=Failure(reason="spawn-failed", message=str(not_started), stage="spawn"))
    memory = MemoryPass(child.pid, order.watch) if order.kind == "check" else None
    conversation = Conversation(order, child, scratch, say, watch, memory)
    error: Exception | None = None
    whole = False
    try:
        conversation.hold(nonce)
        whole = True
    except (ProtocolError, EngineFailure, WrongOutput) as caught:
        error = caught
    finally:  # also when we are interrupted
        ending = _closed(child, order, error, whole=whole)
        oom_killed = _oom_killed(kills, ending, memory)
        if memory is not None:
            memory.close()
    found = _Found(conversation.facts, conversation.requests, remains=[*ending.remains, *_device_remains(order)])
    logits = found.facts.pop("logits", None)
    if error is not None:
        scene = Scene(conversation.stage, ending, child.last_lines(), order.device, oom_killed)
        found.failure = failure_of(error, scene)
        return found
    found.ended = _badly_ended(ending)
    if judge is not None and logits is not None:
        say("comparing logits with the float32 reference")
        path, sha256, n_rows = logits
        found.facts["fidelity"] = judge(path, sha256, n_rows, found.facts["loaded"])
    return found


def _closed(child: ChildProcess, order: LaunchOrder, error: Exception | None, *, whole: bool) -> Ending:
    """A process whose stream has ended is given the time to end too; one that hangs says where."""
    ladder = order.limits.ladder
    if isinstance(error, (StreamClosed, Truncated)):
        child.wait(order.limits.death)
    child.close(ladder.grace if whole else ladder.broken_grace, stack=isinstance(error, Hang))
    assert child.ending is not None
    return child.ending


def _badly_ended(ending: Ending) -> str:
    """Of a process that had answered everything; empty: with exit code 0, by itself."""
    if ending.ended_with or not ending.code:
        return ending.ended_with
    return f"signal {-ending.code}" if ending.code < 0 else f"exit code {ending.code}"


def _oom_killed(before: OomKills, ending: Ending, memory: MemoryPass | None) -> bool:
    by_sigkill = ending.by_itself and ending.code == -signal.SIGKILL
    of_launch = memory is not None and memory.oom_kills > 0
    return of_launch or OomKills.read().killed_since(before, by_sigkill)


def _device_remains(order: LaunchOrder) -> list[str]:
    left = order.watch.memory_left() if order.watch is not None else None
    return [f"{left / 2**20:.0f} MiB of the GPU's memory"] if left else []
