"""One launch: spawn the engine, say hello, load, ask, shut down, and write down what happened.

Five kinds. A `check` launch admits a case: memory is sampled from outside over load and two requests, then the logits
of the fidelity probe are taken; nothing of it counts as speed. A `timed` launch has no observer but the clock. A `cold`
launch is a timed one that found its model on the disk alone, and ends with its warm-up. An `energy` launch counts
joules over requests whose time counts for nothing, a `profile` launch runs one under the engine's own profiler.
"""

from __future__ import annotations

import datetime as dt
import secrets
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from enginebench_protocol.client import Client, Received
from enginebench_protocol.codec import pack_ids, unpack_ids, unpack_times
from enginebench_protocol.errors import (
    DeadlineExceeded,
    EngineFailure,
    FrameError,
    ProtocolError,
    StreamClosed,
)
from enginebench_protocol.messages import Event, Generated, Loaded, Progress
from enginebench_protocol.prompts import ids_sha256, prompt_ids

from enginebench.machine.energy import Meter
from enginebench.machine.gates import doubts
from enginebench.machine.memory_pass import MemoryPass
from enginebench.machine.pages import disk_read_bytes
from enginebench.machine.timeline import MemoryTimeline
from enginebench.machine.watch import LaunchWatch, Watch
from enginebench.store import profiles
from enginebench.store.record import (
    CLOCKS_DISAGREE,
    PROBE_PREFILL,
    Case,
    Failure,
    FailureReason,
    FidelityReading,
    Kind,
    Launch,
    LoadedFacts,
    Request,
    StartState,
)
from enginebench.workspace.environment import Interpreter

from . import energy_pass
from .overheard import stream_of
from .process import ChildProcess, Watchdog
from .repeated import ask_again

Say = Callable[[str], None]
HELLO_SECONDS = 180.0
PROFILED_TOKENS = 16
"""A trace of more says nothing new, and takes long to open."""
CHECK_REQUESTS = 2
"""The first pays for compilation; the second tells how long a request takes (the pilot of the schedule)."""


@dataclass(frozen=True)
class LaunchOrder:
    """Everything that one launch needs to know."""

    case: Case
    kind: Kind
    block: int
    order: int
    module: str
    model_path: Path
    device: str
    threads: int
    cache: Path
    seed: int
    warmup: int
    iterations: int
    silence_seconds: float
    """The longest an engine may stay silent before it counts as hung."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Settings that only this engine has."""
    probe: list[int] | None = None
    """Fidelity probe; None for engines without a model (instruments)."""
    watch: Watch | None = None
    """Records the noise around the launch; None: nobody looks."""
    start_state: StartState | None = None
    """What was found just before the spawn."""
    meter: Meter | None = None
    """Of an energy launch."""
    tell: Callable[[str], None] | None = None
    """Hears every frame and every line of stderr; None: nobody does."""
    profile_folder: Path | None = None
    """Where a profile launch leaves its traces."""


@dataclass
class _Draft:
    """What is known so far: a launch that fails half-way keeps it."""

    stage: str = "spawn"
    facts: dict[str, Any] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    watch: LaunchWatch | None = None
    memory: MemoryPass | None = None


Judge = Callable[[Path, str, int, LoadedFacts], FidelityReading]
"""judge(logits.npy, sha256, n_rows, what was loaded)"""


def run_launch(
    order: LaunchOrder, interpreter: Interpreter, say: Say, watchdog: Watchdog | None = None, judge: Judge | None = None
) -> Launch:
    """Never raises for what an engine does: a failure is part of the record."""
    started_at = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    started_ns, draft = time.perf_counter_ns(), _Draft()
    if order.watch is not None:
        draft.watch = LaunchWatch(order.watch)
    with tempfile.TemporaryDirectory(prefix="enginebench-") as scratch:
        failure = _attempt(order, interpreter, say, watchdog, judge, Path(scratch), draft)
    return Launch(
        case=order.case,
        kind=order.kind,
        block=order.block,
        order=order.order,
        started_at=started_at,
        duration_ns=time.perf_counter_ns() - started_ns,
        failure=failure,
        requests=draft.requests,
        **_around(draft.watch, order.kind),
        start_state=order.start_state,
        **draft.facts,
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
    draft: _Draft,
) -> Failure | None:
    nonce = secrets.token_hex(16)
    environment = {**interpreter.environment, "TMPDIR": str(scratch)}
    try:
        child = ChildProcess(interpreter.command(order.module, nonce), environment, scratch, watchdog, order.tell)
    except OSError as not_started:
        return Failure(reason="spawn-failed", message=str(not_started), stage="spawn")
    if order.kind == "check":
        draft.memory = MemoryPass(child.pid, order.watch)
    error: Exception | None = None
    try:
        _converse(order, child, nonce, scratch, say, draft)
    except (ProtocolError, EngineFailure, _WrongOutput) as caught:
        error = caught
    finally:
        exit_code = child.close(grace=0.2 if error else 5.0)
        if draft.memory is not None:
            draft.memory.close()
    if error is not None:
        return failure_of(error, draft.stage, exit_code, child.last_lines())
    if judge is not None and "logits" in draft.facts:
        say("comparing logits with the float32 reference")
        path, sha256, n_rows = draft.facts.pop("logits")
        draft.facts["fidelity"] = judge(Path(path), sha256, n_rows, draft.facts["loaded"])
    draft.facts.pop("logits", None)
    return None


class _WrongOutput(Exception):
    """A well-formed answer that is not the work that was asked for."""


def _converse(order: LaunchOrder, child: ChildProcess, nonce: str, scratch: Path, say: Say, draft: _Draft) -> None:
    client = Client(stream_of(child.read_fd, child.write_fd, order.tell))
    draft.stage = "hello"
    hello = client.hello(order.case.engine, nonce, HELLO_SECONDS)
    draft.facts["interpreter_ns"] = hello.t_begin_ns - child.started_ns if hello.t_begin_ns else None
    draft.facts["startup_ns"] = time.perf_counter_ns() - child.started_ns
    if order.kind == "check":
        _check(order, client, child, scratch, say, draft)
    elif order.kind == "energy":
        _energy(order, client, child, scratch, say, draft)
    elif order.kind == "profile":
        _profile(order, client, child, scratch, say, draft)
    else:
        _timed(order, client, child, scratch, say, draft)
    draft.stage = "shutdown"
    client.unload(order.silence_seconds)
    if draft.memory is not None:
        draft.facts["memory"] = draft.memory.after_unload(draft.facts["memory"])
    client.shutdown(order.silence_seconds)


def _check(order: LaunchOrder, client: Client, child: ChildProcess, scratch: Path, say: Say, draft: _Draft) -> None:
    assert draft.memory is not None
    with draft.memory:
        _load(order, client, scratch, say, draft)
        draft.memory.loaded()
        for iteration in range(CHECK_REQUESTS):
            say(f"first requests {iteration + 1}/{CHECK_REQUESTS}")
            _request(order, client, child, iteration, "warm-up", draft)
    draft.stage = "memory"
    draft.facts["memory"] = draft.memory.reading(client.memory(order.silence_seconds))
    draft.stage = "repeat"
    ask_again(draft.requests[-1], lambda i, repeat: _request(order, client, child, i, "warm-up", draft, repeat))
    if order.probe is not None:
        say("fidelity probe")
        draft.stage = "score"
        scored = client.score(order.probe, PROBE_PREFILL, order.silence_seconds)
        draft.facts["logits"] = (scored.path, scored.sha256, scored.n_rows)


def _timed(order: LaunchOrder, client: Client, child: ChildProcess, scratch: Path, say: Say, draft: _Draft) -> None:
    _load(order, client, scratch, say, draft)
    wall_ns, cpu_ns = time.perf_counter_ns(), time.process_time_ns()
    for iteration in range(order.warmup + order.iterations):
        phase = "warm-up" if iteration < order.warmup else "measured"
        say(f"{phase} request {iteration + 1}/{order.warmup + order.iterations}")
        if draft.watch is not None and phase == "measured" and iteration == order.warmup:
            draft.watch.start(child.pid)
        _request(order, client, child, iteration, phase, draft)
        if draft.watch is not None and phase == "measured":
            draft.watch.after_request()
    if draft.watch is not None and order.iterations:
        draft.watch.end(child.pid)
    elapsed_ns = time.perf_counter_ns() - wall_ns
    draft.facts["harness_cpu_share"] = (time.process_time_ns() - cpu_ns) / elapsed_ns
    if order.kind == "cold":
        draft.facts["disk_read_bytes"] = disk_read_bytes(child.pid)
        return
    for extra in range(order.case.workload.n_depth_requests):
        say(f"depth request {extra + 1}/{order.case.workload.n_depth_requests}")
        _request(order, client, child, order.warmup + order.iterations + extra, "depth", draft)


def _energy(order: LaunchOrder, client: Client, child: ChildProcess, scratch: Path, say: Say, draft: _Draft) -> None:
    """Its requests are checked like any, and counted, but not recorded one by one."""
    assert order.meter is not None
    _load(order, client, scratch, say, draft)
    n_sent, n_gen = order.case.workload.tokens_of("measured")

    def ask(iteration: int, count: int) -> None:
        say(f"energy: request {iteration + 1}")
        draft.stage = f"energy request {iteration + 1}"
        prompt = pack_ids(prompt_ids(order.seed, iteration, n_sent, draft.facts["loaded"].vocab_size))
        generated, received = client.generate(prompt, count, order.silence_seconds)
        _recorded(generated, received, prompt, count, iteration, "measured")

    if draft.watch is not None:
        draft.watch.start(child.pid)
    draft.facts["energy"] = energy_pass.measure(order.meter, ask, n_sent, n_gen)
    if draft.watch is not None:
        draft.watch.end(child.pid)


def _profile(order: LaunchOrder, client: Client, child: ChildProcess, scratch: Path, say: Say, draft: _Draft) -> None:
    """One request that compiles, one under the profiler; memory is sampled all the while."""
    assert order.profile_folder is not None
    n_sent, n_gen = order.case.workload.tokens_of("measured")
    with MemoryTimeline(child.pid) as timeline:
        with timeline.span("load"):
            _load(order, client, scratch, say, draft)
        with timeline.span("first request"):
            _request(order, client, child, 0, "warm-up", draft)
        say("profiled request")
        draft.stage = "profile"
        prompt = pack_ids(prompt_ids(order.seed, 1, n_sent, draft.facts["loaded"].vocab_size))
        with timeline.span("profiled request"):
            profiled = client.profile(prompt, min(n_gen, PROFILED_TOKENS), order.silence_seconds)
    try:
        profiles.keep(profiled.files, scratch, order.profile_folder)
    except profiles.BadProfile as error:
        raise _WrongOutput(str(error)) from None
    timeline.write(order.profile_folder / profiles.MEMORY)


def _load(order: LaunchOrder, client: Client, scratch: Path, say: Say, draft: _Draft) -> None:
    draft.stage = "load"
    say("loading")

    def on_event(event: Event) -> None:
        if isinstance(event, Progress):
            say(f"loading: {event.stage} {event.fraction:.0%}")

    sent_ns = time.perf_counter_ns()
    loaded = client.load(
        order.silence_seconds,
        on_event,
        configuration=order.case.configuration,
        model_path=str(order.model_path),
        n_ctx=order.case.workload.n_ctx,
        device=order.device,
        threads=order.threads,
        cache=str(order.cache),
        scratch=str(scratch),
        options=dict(order.options),
        shards=order.case.shards,
    )
    draft.facts["load_ns"] = time.perf_counter_ns() - sent_ns
    draft.facts["loaded"] = loaded_facts(loaded)


def loaded_facts(loaded: Loaded) -> LoadedFacts:
    facts = msgspec.structs.asdict(loaded)
    del facts["id"]
    facts["stages_ns"] = facts.pop("stages")
    return LoadedFacts(**facts)


def _request(
    order: LaunchOrder,
    client: Client,
    child: ChildProcess,
    iteration: int,
    phase: Any,
    draft: _Draft,
    repeat: bool = False,
) -> Request:
    draft.stage = f"request {iteration + 1}"
    n_sent, n_gen = order.case.workload.tokens_of(phase)
    prompt = pack_ids(prompt_ids(order.seed, iteration, n_sent, draft.facts["loaded"].vocab_size))
    generated, received = client.generate(prompt, n_gen, order.silence_seconds)
    request = _recorded(generated, received, prompt, n_gen, iteration, phase)
    if iteration < CHECK_REQUESTS or repeat:
        request = msgspec.structs.replace(request, repeat=repeat, tokens=unpack_ids(generated.tokens).tolist())
    if not draft.requests:
        first_token_ns = generated.t_start_ns + request.t_token_ns[0]
        draft.facts["cold_start_ns"] = first_token_ns - child.started_ns
    draft.requests.append(request)
    return request


def _recorded(
    generated: Generated, received: Received, prompt: bytes, n_gen: int, iteration: int, phase: Any
) -> Request:
    """Raises _WrongOutput unless the engine did the work it was asked for."""
    times = unpack_times(generated.t_token_ns)
    tokens = unpack_ids(generated.tokens)
    if (len(tokens), len(times)) != (n_gen, n_gen):
        raise _WrongOutput(f"{len(tokens)} tokens and {len(times)} times instead of {n_gen}")
    if generated.prompt_sha256 != ids_sha256(prompt):
        raise _WrongOutput("the engine answered another prompt than the one sent")
    if times[0] < generated.t_start_ns:
        raise _WrongOutput("the first token is stamped before the request started")
    disagreement = received.t_received_ns - received.t_sent_ns - (times[-1] - generated.t_start_ns)
    return Request(
        phase=phase,
        iteration=iteration,
        n_prompt=generated.n_prompt,
        prompt_sha256=generated.prompt_sha256,
        tokens_sha256=ids_sha256(generated.tokens),
        t_start_ns=generated.t_start_ns,
        t_token_ns=[t - generated.t_start_ns for t in times],
        clock_disagreement_ns=disagreement,
        reported=generated.reported,
        doubts=[*_clock_doubts(disagreement, times[-1] - generated.t_start_ns), *server_doubts(generated)],
    )


def _clock_doubts(disagreement_ns: int, duration_ns: int) -> list[str]:
    """The engine's stamps against ours: more than max(1 ms, 1 %) apart, or a longer time inside than outside."""
    if disagreement_ns < 0 or disagreement_ns > max(1_000_000, duration_ns // 100):
        return [f"{CLOCKS_DISAGREE} by {disagreement_ns / 1e6:.3f} ms"]
    return []


def server_doubts(generated: Generated) -> list[str]:
    """A server that broke an answer off, or that counts other tokens than were sent and received."""
    told, doubts = generated.reported, []
    if (asked := told.get("n_requests", 1)) > 1:
        doubts.append(f"answer broken off by the engine's server: asked {asked} times")
    counted = {"prompt": told.get("n_prompt"), "generated": told.get("n_gen")}
    came = {"prompt": generated.n_prompt, "generated": len(unpack_ids(generated.tokens))}
    if asked == 1 and any(count not in (None, came[what]) for what, count in counted.items()):
        doubts.append(f"other counts by the engine's server: {counted}, sent and received {came}")
    return doubts


def failure_of(error: Exception, stage: str, exit_code: int | None, stderr_tail: list[str]) -> Failure:
    hint = detail = ""
    reason: FailureReason
    message = str(error)
    signal_number = -exit_code if exit_code is not None and exit_code < 0 else None
    match error:
        case EngineFailure():
            message, hint, detail = f"{error.code}: {error.message}", error.hint, error.detail
            match error.code:
                case "out-of-memory":
                    reason = "out-of-memory"
                case "unsupported":
                    reason, message = "unsupported", error.message
                case _:
                    reason = "engine-failure"
        case _WrongOutput():
            reason = "wrong-output"
        case DeadlineExceeded():
            reason = "hello-timeout" if stage == "hello" else "hang"
        case StreamClosed() | FrameError() if signal_number is not None:
            reason, message = "signal", f"killed by signal {signal_number}"
        case StreamClosed():
            reason, message = "exit", f"exited with code {exit_code}"
        case _:
            reason = "protocol-error"
    return Failure(
        reason=reason,
        message=message,
        hint=hint,
        detail=detail,
        stage=stage,
        exit_code=exit_code if exit_code is not None and exit_code >= 0 else None,
        signal=signal_number,
        stderr_tail=stderr_tail,
    )
