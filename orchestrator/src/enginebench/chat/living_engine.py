"""One engine process that stays: spawned at once, loaded when its model is known, asked again and again.

Spawned like an engine that is timed (own session, allow-listed environment, watchdog), on the main thread only. What
it says is passed on as it comes; what it costs in memory is read between two answers, never inside one.
"""

from __future__ import annotations

import secrets
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from enginebench_protocol.codec import pack_ids
from enginebench_protocol.engine import Sampling
from enginebench_protocol.errors import ProtocolError, StreamClosed, Truncated
from enginebench_protocol.messages import Event, Loaded, Progress, Token

from enginebench.machine.memory import read_tree
from enginebench.run.guard import Watchdog
from enginebench.run.limits import Ladder, Limits
from enginebench.run.process import ChildProcess, become_subreaper, sweep_descendants
from enginebench.run.vigil import watched
from enginebench.workspace import environment
from enginebench.workspace.environment import Interpreter, kernel_cache

from .choice import Choice
from .settings import Settings
from .turn import Turn, turn_of

SILENCE_SECONDS = 1800.0
"""The longest an engine may take for a load or a token: a first request may compile."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Ask:
    """One question as an engine sees it."""

    prompt: array[int]
    n_gen: int
    n_ctx: int
    sampling: Sampling
    stop: Collection[int]
    on_token: Callable[[int], None]
    cancelled: Callable[[], bool]
    """Asked after each token: does the user want no more of it?"""


@dataclass
class Stamps:
    """When the process came so far, on the clock of time.perf_counter_ns."""

    spawned_ns: int
    hello_ns: int = 0
    load_sent_ns: int = 0
    loaded_ns: int = 0


class EngineDied(Exception):
    """The process is gone; the message says how, `last_lines` what it wrote to stderr."""

    def __init__(self, message: str, last_lines: list[str]) -> None:
        super().__init__(message)
        self.last_lines = last_lines


class LivingEngine:
    """Close it, whatever happens. Methods raise EngineFailure if it says no, EngineDied if it is no more."""

    def __init__(
        self,
        choice: Choice,
        interpreter: Interpreter,
        watchdog: Watchdog | None = None,
        spared: Callable[[], Collection[int]] = tuple,
        tell: Say | None = None,
    ) -> None:
        """`spared`: the pids of other engines that live, which the end of this one leaves alone. `tell`: hears every
        frame and every line of stderr."""
        self.choice = choice
        self.loaded: Loaded | None = None
        self._spared = spared
        self._nonce = secrets.token_hex(16)
        self._scratch = tempfile.TemporaryDirectory(prefix="engine-", dir=watchdog.folder if watchdog else None)
        allowed = {**interpreter.environment, "TMPDIR": self._scratch.name}
        command = interpreter.command(choice.info.module, self._nonce)
        self._closed = False
        self._exit_code: int | None = None
        try:
            self._child = ChildProcess(command, allowed, Path(self._scratch.name), watchdog, tell)
        except OSError as error:
            self._scratch.cleanup()
            raise EngineDied(str(error), []) from None
        self._client, self._vigil = watched(self._child, Limits(), SILENCE_SECONDS, tell=tell)
        self.stamps = Stamps(self._child.started_ns)

    def load(self, model: Path, n_ctx: int, device: str, threads: int, say: Say, shards: int = 1) -> Loaded:
        def on_event(event: Event) -> None:
            self._vigil.heard()
            if isinstance(event, Progress):
                say(f"{self.choice.label}: {event.stage} {event.fraction:.0%}")

        try:
            self._vigil.enter("hello")
            self._client.hello(self.choice.info.name, self._nonce, SILENCE_SECONDS)
            self.stamps.hello_ns = self.stamps.load_sent_ns = time.perf_counter_ns()
            self._vigil.enter("load")
            self.loaded = self._client.load(
                SILENCE_SECONDS,
                on_event,
                configuration=self.choice.configuration,
                model_path=str(model),
                n_ctx=n_ctx,
                device=device,
                threads=threads,
                cache=str(kernel_cache(self.choice.info)),
                scratch=self._scratch.name,
                options={},
                shards=shards,
            )
        except ProtocolError as error:
            raise self._died(error) from None
        self.stamps.loaded_ns = time.perf_counter_ns()
        return self.loaded

    def reply(self, ask: Ask) -> Turn:
        """The answer, each id passed to `ask.on_token` as it comes."""
        self._vigil.enter("reply")
        cancelled = False

        def on_event(event: Event) -> None:
            nonlocal cancelled
            if isinstance(event, Token):
                ask.on_token(event.token)
            if ask.cancelled() and not cancelled:
                cancelled = True
                self._client.cancel()

        try:
            generated, received = self._client.generate(
                pack_ids(ask.prompt),
                ask.n_gen,
                SILENCE_SECONDS,
                stream=True,
                on_event=on_event,
                sampling=ask.sampling,
                stop=tuple(ask.stop),
            )
        except ProtocolError as error:
            raise self._died(error) from None
        return turn_of(generated, received, ask.n_ctx, ask.n_gen, ask.stop, cancelled)

    @property
    def pid(self) -> int:
        return self._child.pid

    def pss_bytes(self) -> int | None:
        """Memory of its process tree, seen from outside; walking 2.5 GB takes the kernel 30 ms."""
        reading = read_tree(self._child.pid)
        return reading.pss_bytes if reading.n_processes else None

    def device_bytes(self) -> int | None:
        """The most that it held on a GPU, by its own account; None on a processor."""
        if self.loaded is None or self.loaded.device != "cuda":
            return None
        self._vigil.enter("memory")
        try:
            return self._client.memory(SILENCE_SECONDS).device_peak_bytes
        except ProtocolError as error:
            raise self._died(error) from None

    def close(self, grace: float) -> int | None:
        """Ends it for certain; returns the exit code. Once it has ended, nothing."""
        if not self._closed:
            self._closed = True
            self._exit_code = self._child.close(grace, self._spared())
            self._scratch.cleanup()
        return self._exit_code

    def _died(self, error: ProtocolError) -> EngineDied:
        from enginebench.run.failure import Scene, failure_of  # noqa: PLC0415 - for this case only

        if isinstance(error, (StreamClosed, Truncated)):
            self._child.wait(Limits().death)
        self.close(grace=0.2)
        assert self._child.ending is not None
        failure = failure_of(error, Scene(self._vigil.stage, self._child.ending, self._child.last_lines()))
        return EngineDied(f"{failure.message} during {failure.stage}", failure.stderr_tail)


def spawned(
    choice: Choice,
    settings: Settings,
    watchdog: Watchdog | None,
    say: Say,
    spared: Callable[[], Collection[int]] = tuple,
) -> LivingEngine:
    """In its environment, which is installed if need be, once the model is known to be there.

    Raises UsageError, UnavailableError, EngineDied.
    """
    if choice.info.package not in settings.overrides and not environment.is_synced(choice.info, extra=choice.extra):
        _refuse_unknown_model(choice, settings)
    interpreter = environment.startable(choice.info, settings.overrides, say, extra=choice.extra, watchdog=watchdog)
    return LivingEngine(choice, interpreter, watchdog, spared, _to_stderr if settings.debug else None)


@contextmanager
def started(choice: Choice, settings: Settings, say: Say) -> Iterator[LivingEngine]:
    """One engine, from its spawn to its end. Raises UnavailableError, EngineDied."""
    become_subreaper()
    with Watchdog() as watchdog:
        try:
            engine = spawned(choice, settings, watchdog, say)
            try:
                yield engine
            finally:
                engine.close(grace=2.0)
        finally:
            sweep_descendants(keep={watchdog.pid}, seconds=Ladder().sweep)


def _refuse_unknown_model(choice: Choice, settings: Settings) -> None:
    from .model import place  # noqa: PLC0415 - NumPy and all; installing takes longer

    place(settings, [choice])


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
