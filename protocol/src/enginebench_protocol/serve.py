"""The engine's side of the protocol: hello, then one request after the other until shutdown or the parent is gone."""

from __future__ import annotations

import ctypes
import importlib
import os
import select
import signal
import sys
import threading
import time
import traceback
from array import array
from collections.abc import Callable, Generator, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from . import out_of_memory, sandbox
from .codec import decode, encode, pack_ids, pack_times, unpack_ids
from .engine import GREEDY, Engine, Sampling
from .errors import EngineFailure, MessageError, ProtocolError, StreamClosed
from .framing import FrameStream
from .messages import (
    PROTOCOL_VERSION,
    Account,
    Cancel,
    Done,
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
    Request,
    Score,
    Scored,
    Shutdown,
    ToEngine,
    Token,
    Unload,
)
from .npy import write_matrix
from .prompts import ids_sha256

EXIT_PARENT_GONE = 75
EXIT_PROTOCOL = 76
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_GRACE_SECONDS = 2.0

AfterToken = Callable[[int, int], bool]
"""after_token(index, id): whether the generation ends here."""


def serve_process(engine: str, read_fd: int, write_fd: int, arguments: list[str], t_begin_ns: int = 0) -> int:
    """Run as a child process until shutdown. Returns the exit code."""
    sandbox.enter()
    die_with_parent(read_fd)
    nonce = dict(pairwise(arguments)).get("--nonce", "")
    return serve(load_class(engine)(), FrameStream(read_fd, write_fd), nonce, t_begin_ns)


def serve(engine: Engine, stream: FrameStream, nonce: str, t_begin_ns: int = 0) -> int:
    """Answer requests until shutdown (0), a closed stream (75) or a broken protocol (76)."""
    session = Session(engine, stream)
    try:
        stream.send(encode(session.hello(nonce, t_begin_ns)))
        while not session.finished:
            message = decode(stream.receive(), ToEngine)
            if not isinstance(message, Cancel):  # one that is read here came too late: its request is answered
                session.answer(message)
    except StreamClosed:
        return EXIT_PARENT_GONE
    except ProtocolError as error:
        print(f"protocol: {error}", file=sys.stderr)
        return EXIT_PROTOCOL
    return 0


def load_class(reference: str) -> Any:
    """The class named "module:Class"."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


class Session:
    """Turns requests into calls of one engine, and what comes of them into replies.

    What no engine could answer is refused here, once for all: an unknown configuration, no model, ids that do not fit.
    """

    def __init__(self, engine: Engine, stream: FrameStream) -> None:
        self.engine = engine
        self.stream = stream
        self.scratch = Path()
        self.loaded: Loaded | None = None
        self.finished = False

    def hello(self, nonce: str, t_begin_ns: int = 0) -> Hello:
        return Hello(
            protocol=PROTOCOL_VERSION,
            nonce=nonce,
            engine=self.engine.name,
            pid=os.getpid(),
            configurations=dict(self.engine.configurations),
            versions={"python": sys.version.split()[0]},
            t_begin_ns=t_begin_ns,
        )

    def answer(self, request: Request) -> None:
        """Send exactly one terminal reply."""
        try:
            payload = encode(self._dispatch(request))
        except EngineFailure as failure:
            payload = encode(_failed(request.id, failure))
        except MessageError as error:
            payload = encode(_failed(request.id, EngineFailure("bad-request", str(error))))
        except ProtocolError:  # the parent is gone: nobody to tell
            raise
        except MemoryError as error:
            payload = encode(_failed(request.id, EngineFailure("out-of-memory", f"{out_of_memory.HOST}: {error}")))
        except ImportError as error:
            payload = encode(_failed(request.id, EngineFailure("unsupported", f"a library is missing: {error}")))
        except Exception as error:  # noqa: BLE001 - an engine's bug is a result of this case, not the end of the run
            payload = encode(_failed(request.id, _unforeseen(error)))
        self.stream.send(payload)

    def _dispatch(self, request: Request) -> FromEngine:
        match request:
            case Load():
                return self._load(request)
            case Generate():
                return self._generate(request)
            case Score():
                return self._score(request)
            case Profile():
                return self._profile(request)
            case Memory():
                self._model()
                account = self.engine.memory()
                return Account(
                    id=request.id,
                    weights_bytes=account.weights_bytes,
                    kv_cache_bytes=account.kv_cache_bytes,
                    workspace_bytes=account.workspace_bytes,
                    device_peak_bytes=account.device_peak_bytes,
                )
            case Unload() | Shutdown():
                self._unload()
                self.finished = isinstance(request, Shutdown)
                return Done(id=request.id)

    def _load(self, request: Load) -> Loaded:
        known = self.engine.configurations
        if request.configuration not in known:
            hint = f"{self.engine.name} has {', '.join(known)}"
            raise EngineFailure("unsupported", f"unknown configuration {request.configuration!r}", hint)
        if unknown := set(request.options) - set(self.engine.options):
            hint = f"{self.engine.name} has {', '.join(self.engine.options) or 'none'}"
            raise EngineFailure("unsupported", f"unknown option {min(unknown)!r}", hint)
        if request.shards > 1 and not self.engine.shards:
            raise EngineFailure("unsupported", f"{self.engine.name} does not shard", "use one device")
        if self.loaded is not None:
            raise EngineFailure("bad-request", "a model is loaded already", "unload it first")
        self.scratch = Path(request.scratch)
        self.loaded = self.engine.load(request, self._progress(request.id))
        return self.loaded

    def _unload(self) -> None:
        if self.loaded is not None:
            self.engine.unload()
            self.loaded = None

    def _model(self) -> Loaded:
        if self.loaded is None:
            raise EngineFailure("bad-request", "no model is loaded", "send a load request first")
        return self.loaded

    def _ids(self, packed: bytes, n_new: int) -> array[int]:
        """The ids of a request, which the loaded model can take together with `n_new` more."""
        model, ids = self._model(), unpack_ids(packed)
        if not ids:
            raise EngineFailure("bad-request", "the list of token ids is empty")
        if len(ids) + n_new > model.n_ctx:
            needed = f"{len(ids)} + {n_new} positions exceed the context of {model.n_ctx}"
            raise EngineFailure("bad-request", needed, "load with a larger n_ctx")
        if max(ids) >= model.vocab_size:
            raise EngineFailure("bad-request", f"token id {max(ids)} outside the vocabulary of {model.vocab_size}")
        return ids

    def _generate(self, request: Generate) -> Generated:
        prompt = self._ids(request.prompt, request.n_gen)
        sampling = Sampling(request.temperature, request.seed)
        after_token = self._after_token(request)
        tokens, start_ns, times = timed_generate(self.engine, prompt, request.n_gen, sampling, after_token)
        return Generated(
            id=request.id,
            n_prompt=len(prompt),
            prompt_sha256=ids_sha256(request.prompt),
            tokens=pack_ids(tokens),
            t_start_ns=start_ns,
            t_token_ns=pack_times(times),
            reported=dict(self.engine.reported()),
        )

    def _score(self, request: Score) -> Scored:
        tokens = self._ids(request.tokens, 0)
        if request.n_prefill > len(tokens):
            raise EngineFailure("bad-request", f"n_prefill {request.n_prefill} exceeds {len(tokens)} tokens")
        path = self.scratch / f"logits-{request.id}.npy"
        sha256, n_rows = write_matrix(path, self.engine.score(tokens, request.n_prefill))
        return Scored(id=request.id, path=str(path), sha256=sha256, n_rows=n_rows)

    def _profile(self, request: Profile) -> Profiled:
        prompt = self._ids(request.prompt, request.n_gen)
        folder = self.scratch / f"profile-{request.id}"
        folder.mkdir(exist_ok=True)
        files = self.engine.profile(prompt, request.n_gen, folder)
        return Profiled(id=request.id, files={name: str(path) for name, path in files.items()})

    def _progress(self, request_id: int) -> Any:
        def progress(stage: str, fraction: float) -> None:
            self._send(Progress(id=request_id, stage=stage, fraction=min(1.0, max(0.0, fraction))))

        return progress

    def _after_token(self, request: Generate) -> AfterToken | None:
        """What is done between two tokens; None for a timed request: nothing."""
        stop = frozenset(unpack_ids(request.stop))
        if not request.stream:
            return (lambda index, token: token in stop) if stop else None

        def after_token(index: int, token: int) -> bool:
            self._send(Token(id=request.id, index=index, token=token))
            return token in stop or self._cancelled(request.id)

        return after_token

    def _cancelled(self, request_id: int) -> bool:
        """Looks at the request stream without waiting: one system call. Raises ProtocolError for any other message."""
        payload = self.stream.receive_if_any()
        if payload is None:
            return False
        try:
            message = decode(payload, ToEngine)
        except MessageError as error:  # not of the request that is running, hence no failure of that one
            raise ProtocolError(str(error)) from None
        if message != Cancel(id=request_id):
            raise ProtocolError(f"a {type(message).__name__.lower()} while generate {request_id} runs")
        return True

    def _send(self, message: FromEngine) -> None:
        self.stream.send(encode(message))


def timed_generate(
    engine: Engine,
    prompt: array[int],
    n_gen: int,
    sampling: Sampling = GREEDY,
    after_token: AfterToken | None = None,
) -> tuple[array[int], int, array[int]]:
    """The one timed region of the suite: (tokens, start, times). Both lists are allocated beforehand.

    They have `n_gen` entries, fewer only if `after_token` ended the generation. Timed requests have none.
    """
    tokens, times = array("i", bytes(4 * n_gen)), array("q", bytes(8 * n_gen))
    clock, produced = time.perf_counter_ns, 0
    start_ns = clock()
    ids = engine.generate(prompt, n_gen, sampling)
    for token in ids:
        if produced == n_gen:
            raise EngineFailure("internal", f"the engine produced more than the {n_gen} tokens asked for")
        times[produced] = clock()
        tokens[produced] = token
        produced += 1
        if after_token is not None and after_token(produced - 1, token):
            _close(ids)
            return tokens[:produced], start_ns, times[:produced]
    if produced != n_gen:
        raise EngineFailure("internal", f"the engine produced {produced} of {n_gen} tokens")
    return tokens, start_ns, times


def _close(ids: Iterator[int]) -> None:
    """A generator is told now, not when the collector finds it: the engine must be free before the reply."""
    if isinstance(ids, Generator):
        ids.close()


def _unforeseen(error: Exception) -> EngineFailure:
    what, detail = f"{type(error).__name__}: {error}", traceback.format_exc()
    if message := out_of_memory.memory_failure(what):
        return EngineFailure("out-of-memory", message, detail=detail)
    return EngineFailure("internal", what, detail=detail)


def _failed(request_id: int, failure: EngineFailure) -> Failed:
    return Failed(
        id=request_id,
        code=failure.code,
        message=_clean(failure.message or "no message", 4096),
        hint=_clean(failure.hint, 4096),
        detail=_clean(failure.detail, 32_768, keep_end=True),
    )


def _clean(text: str, max_bytes: int, *, keep_end: bool = False) -> str:
    """Valid UTF-8 of at most `max_bytes`, so that no failure is too large, or too odd, for a control frame."""
    encoded = text.encode("utf-8", "replace")
    kept = encoded[-max_bytes:] if keep_end else encoded[:max_bytes]
    return kept.decode("utf-8", "ignore")


def die_with_parent(read_fd: int) -> None:
    """By the kernel's signal, even while native code holds the interpreter; by a thread that sees the pipe close."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_exit_on_hangup, args=(read_fd,), daemon=True, name="parent-watch").start()


def _exit_on_hangup(read_fd: int) -> None:
    poll = select.poll()
    poll.register(read_fd, 0)  # POLLHUP is always reported
    poll.poll()
    time.sleep(_GRACE_SECONDS)  # an orderly shutdown closes the pipe too, and ends by itself
    os._exit(EXIT_PARENT_GONE)
