"""The parent's side of the protocol: one request at a time, every wait with a deadline.

One thread asks. `cancel` alone may be called while a request runs: by another thread, by a signal handler, or in the
event callback. Knows descriptors, not processes: spawning and killing belong to the orchestrator.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from .codec import decode, encode, pack_ids
from .engine import GREEDY, Sampling
from .errors import EngineFailure, HandshakeError, MessageError, StreamClosed
from .framing import FrameStream
from .messages import (
    CONTROL_FRAME_BYTES,
    DATA_FRAME_BYTES,
    PROTOCOL_VERSION,
    Account,
    Cancel,
    Done,
    Event,
    Failed,
    FromEngine,
    Generate,
    Generated,
    Hello,
    Load,
    Loaded,
    Memory,
    Profile,
    Profiled,
    Progress,
    Reply,
    Request,
    Score,
    Scored,
    Shutdown,
    Token,
    Unload,
)

R = TypeVar("R")
EventSink = Callable[[Event], None]
CANCEL_SECONDS = 5.0
"""A cancel is a few bytes into a pipe that is empty: longer is a broken engine."""


@dataclass(frozen=True)
class Received:
    """A reply with the parent's own stamps around the request."""

    reply: Reply
    t_sent_ns: int
    t_received_ns: int


class Client:
    """Speaks to one engine. Timeouts are seconds; they bound the silence between two frames, not the whole answer."""

    def __init__(self, stream: FrameStream) -> None:
        self.stream = stream
        self._next_id = 1
        self._sending = threading.RLock()  # reentrant: a signal handler runs in the thread that it interrupts
        self._to_cancel: int | None = None

    def hello(self, engine: str | None, nonce: str, timeout: float) -> Hello:
        """Raises HandshakeError if another engine (None: any), launch or protocol version answers."""
        hello = decode(self.stream.receive(CONTROL_FRAME_BYTES, timeout), FromEngine)
        if not isinstance(hello, Hello):
            raise HandshakeError(f"expected hello, got {type(hello).__name__.lower()}")
        expected = (PROTOCOL_VERSION, nonce, engine or hello.engine)
        if (hello.protocol, hello.nonce, hello.engine) != expected:
            raise HandshakeError(f"hello of {(hello.protocol, hello.nonce, hello.engine)}, expected {expected}")
        return hello

    def load(self, timeout: float, on_event: EventSink | None = None, **fields: object) -> Loaded:
        return self._expect(Loaded, Load(id=self.new_id(), **fields), timeout, on_event)  # type: ignore[arg-type]

    def generate(
        self,
        prompt: bytes,
        n_gen: int,
        timeout: float,
        *,
        stream: bool = False,
        on_event: EventSink | None = None,
        sampling: Sampling = GREEDY,
        stop: Iterable[int] = (),
    ) -> tuple[Generated, Received]:
        """`n_gen` tokens, fewer only after an id of `stop` or a `cancel`."""
        request = Generate(
            id=self.new_id(),
            prompt=prompt,
            n_gen=n_gen,
            stream=stream,
            temperature=sampling.temperature,
            seed=sampling.seed,
            stop=pack_ids(stop),
        )
        received = self.request(request, timeout, on_event)
        if not isinstance(received.reply, Generated):
            raise MessageError(f"generate answered with {type(received.reply).__name__.lower()}")
        return received.reply, received

    def score(self, tokens: list[int], n_prefill: int, timeout: float) -> Scored:
        return self._expect(Scored, Score(id=self.new_id(), tokens=pack_ids(tokens), n_prefill=n_prefill), timeout)

    def profile(self, prompt: bytes, n_gen: int, timeout: float) -> Profiled:
        return self._expect(Profiled, Profile(id=self.new_id(), prompt=prompt, n_gen=n_gen), timeout)

    def cancel(self) -> bool:
        """End the streaming `generate` that runs after its next token; its caller gets the reply as ever.

        False if there is none (any more), or if it was cancelled before. May be called from anywhere, at any time.
        """
        with self._sending:
            request_id, self._to_cancel = self._to_cancel, None
            if request_id is not None:
                self.stream.send(encode(Cancel(id=request_id)), CANCEL_SECONDS)
            return request_id is not None

    def memory(self, timeout: float) -> Account:
        return self._expect(Account, Memory(id=self.new_id()), timeout)

    def unload(self, timeout: float) -> None:
        self._expect(Done, Unload(id=self.new_id()), timeout)

    def shutdown(self, timeout: float) -> None:
        self._expect(Done, Shutdown(id=self.new_id()), timeout)

    def request(self, request: Request, timeout: float, on_event: EventSink | None = None) -> Received:
        """Send, pass events on, return the terminal reply. Raises EngineFailure when the engine says that it cannot."""
        sent_ns = time.perf_counter_ns()
        try:
            self._send(request, timeout)
        except StreamClosed:
            self._answer(request, timeout, on_event, sent_ns)  # what it said before it closed tells more
            raise
        try:
            return self._answer(request, timeout, on_event, sent_ns)
        finally:
            self._to_cancel = None

    def _send(self, request: Request, timeout: float) -> None:
        with self._sending:
            self.stream.send(encode(request), timeout)
            self._to_cancel = request.id if isinstance(request, Generate) and request.stream else None

    def _answer(self, request: Request, timeout: float, on_event: EventSink | None, sent_ns: int) -> Received:
        cap = DATA_FRAME_BYTES if isinstance(request, Generate) else CONTROL_FRAME_BYTES
        while True:
            message = decode(self.stream.receive(cap, timeout), FromEngine)
            received_ns = time.perf_counter_ns()
            if isinstance(message, Hello) or message.id != request.id:
                raise MessageError(f"a {type(message).__name__.lower()} that nobody asked for")
            if isinstance(message, (Progress, Token)):
                self._check_event(request, message)
                if on_event is not None:
                    on_event(message)
                continue
            if isinstance(message, Failed):
                raise EngineFailure(message.code, message.message, message.hint, message.detail)
            return Received(message, sent_ns, received_ns)

    def _check_event(self, request: Request, event: Event) -> None:
        wanted = isinstance(request, Load) if isinstance(event, Progress) else getattr(request, "stream", False)
        if not wanted:
            raise MessageError(f"a {type(event).__name__.lower()} event in answer to {type(request).__name__.lower()}")

    def _expect(self, kind: type[R], request: Request, timeout: float, on_event: EventSink | None = None) -> R:
        reply = self.request(request, timeout, on_event).reply
        if not isinstance(reply, kind):
            raise MessageError(f"{type(request).__name__.lower()} answered with {type(reply).__name__.lower()}")
        return reply

    def new_id(self) -> int:
        """For a request that is built elsewhere; the methods above number their own."""
        self._next_id += 1
        return self._next_id - 1
