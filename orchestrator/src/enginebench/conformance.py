"""The conformance suite of the protocol, against any executable that claims to speak it.

Each check starts from a fresh process, so that one fault does not hide another. Built from the specification
(docs/protocol.md) and the raw frames; an engine in any language can be held against it.
"""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from enginebench_protocol.client import Client
from enginebench_protocol.codec import encode, pack_ids, unpack_ids, unpack_times
from enginebench_protocol.errors import EngineFailure, ProtocolError, StreamClosed
from enginebench_protocol.framing import FrameStream
from enginebench_protocol.messages import Event, Generated, Hello, Loaded, Token, Unload
from enginebench_protocol.prompts import ids_sha256, prompt_ids

from .discovery import EngineInfo
from .process import ChildProcess, engine_environment

N_PROMPT, N_GEN, N_CTX = 6, 5, 128
SILENCE_SECONDS = 600.0
EXIT_SECONDS = 5.0


@dataclass(frozen=True)
class Check:
    name: str
    passed: bool
    detail: str = ""


@dataclass(frozen=True)
class Subject:
    """What is checked: how to start it, and what it is expected to be."""

    command: Sequence[str]
    model_path: Path
    info: EngineInfo | None
    configuration: str | None


@dataclass
class Conversation:
    """One process, past its hello."""

    subject: Subject
    child: ChildProcess
    client: Client
    hello: Hello
    scratch: Path

    def load(self, **changes: Any) -> Loaded:
        fields = {
            "configuration": self.subject.configuration or next(iter(self.hello.configurations)),
            "model_path": str(self.subject.model_path),
            "n_ctx": N_CTX,
            "device": "cpu",
            "threads": 1,
            "cache": str(self.scratch),
            "scratch": str(self.scratch),
        }
        return self.client.load(SILENCE_SECONDS, **{**fields, **changes})

    def generate(self, loaded: Loaded, iteration: int = 0, **options: Any) -> tuple[Generated, Any, bytes]:
        prompt = pack_ids(prompt_ids(0, iteration, N_PROMPT, loaded.vocab_size))
        generated, received = self.client.generate(prompt, N_GEN, SILENCE_SECONDS, **options)
        return generated, received, prompt


class _Violation(AssertionError):
    """The engine is not conformant; the text says how."""


def run_conformance(
    command: Sequence[str], model_path: Path, info: EngineInfo | None = None, configuration: str | None = None
) -> list[Check]:
    """Every check in the order of an engine's life. `command` must end in what starts the protocol (`… serve`)."""
    subject = Subject(command, model_path, info, configuration)
    return [_outcome(name, check, subject) for name, check in CHECKS.items()]


def _outcome(name: str, check: Callable[[Subject], None], subject: Subject) -> Check:
    try:
        check(subject)
    except (_Violation, ProtocolError, EngineFailure, OSError) as error:
        return Check(name, passed=False, detail=f"{type(error).__name__.lstrip('_')}: {error}")
    return Check(name, passed=True)


@contextmanager
def _talk(subject: Subject) -> Iterator[Conversation]:
    nonce = secrets.token_hex(8)
    with tempfile.TemporaryDirectory(prefix="enginebench-") as folder:
        environment = engine_environment({"TMPDIR": folder})
        child = ChildProcess([*subject.command, "--nonce", nonce], environment, Path(folder))
        try:
            client = Client(FrameStream(child.read_fd, child.write_fd))
            name = subject.info.name if subject.info else None
            hello = client.hello(name, nonce, SILENCE_SECONDS)
            yield Conversation(subject, child, client, hello, Path(folder))
        finally:
            child.close(grace=0.5)


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise _Violation(what)


# ---- the checks -----------------------------------------------------------------------------------------------


def says_hello(subject: Subject) -> None:
    with _talk(subject) as talk:
        _require(bool(talk.hello.configurations), "hello names no configuration")
        _require(talk.hello.pid == talk.child.pid, f"hello names pid {talk.hello.pid}, the process is {talk.child.pid}")


def matches_its_table(subject: Subject) -> None:
    if subject.info is None:
        return
    with _talk(subject) as talk:
        said, written = set(talk.hello.configurations), set(subject.info.configurations)
        _require(said == written, f"hello has {sorted(said)}, the pyproject table {sorted(written)}")


def lives_an_orderly_life(subject: Subject) -> None:
    with _talk(subject) as talk:
        loaded = talk.load()
        talk.generate(loaded)
        account = talk.client.memory(SILENCE_SECONDS)
        _require(account.weights_bytes >= 0, "a negative amount of memory")
        talk.client.unload(SILENCE_SECONDS)
        talk.client.shutdown(SILENCE_SECONDS)
        code = talk.child.wait(EXIT_SECONDS)
        _require(code == 0, f"exit code {code} after shutdown")
        _require(_silent(talk), "bytes on stdout after the last reply")


def reports_what_it_loaded(subject: Subject) -> None:
    with _talk(subject) as talk:
        loaded = talk.load()
        _require(loaded.n_ctx >= N_CTX, f"n_ctx {loaded.n_ctx}, asked for {N_CTX}")
        _require(loaded.threads == 1, f"{loaded.threads} threads, asked for 1")


def generates_exactly_what_was_asked(subject: Subject) -> None:
    with _talk(subject) as talk:
        loaded = talk.load()
        generated, _, prompt = talk.generate(loaded)
        ids = unpack_ids(generated.tokens)
        _require(len(ids) == N_GEN, f"{len(ids)} tokens, asked for {N_GEN}")
        _require(max(ids) < loaded.vocab_size, f"id {max(ids)} outside the vocabulary of {loaded.vocab_size}")
        _require(generated.n_prompt == N_PROMPT, f"n_prompt {generated.n_prompt}, sent {N_PROMPT}")
        _require(generated.prompt_sha256 == ids_sha256(prompt), "the hash of another prompt is echoed")


def forgets_earlier_requests(subject: Subject) -> None:
    with _talk(subject) as talk:
        loaded = talk.load()
        first = talk.generate(loaded, iteration=0)[0].tokens
        talk.generate(loaded, iteration=1)
        again = talk.generate(loaded, iteration=0)[0].tokens
        _require(first == again, "the same prompt gives other tokens after another request")


def stamps_agree_with_ours(subject: Subject) -> None:
    with _talk(subject) as talk:
        loaded = talk.load()
        talk.generate(loaded, iteration=0)
        generated, received, _ = talk.generate(loaded, iteration=1)
        times = unpack_times(generated.t_token_ns)
        _require(len(times) == N_GEN, f"{len(times)} times for {N_GEN} tokens")
        inside = times[-1] - generated.t_start_ns
        outside = received.t_received_ns - received.t_sent_ns
        _require(generated.t_start_ns <= times[0], "the first token is stamped before the start")
        _require(
            received.t_sent_ns <= generated.t_start_ns and times[-1] <= received.t_received_ns,
            "stamps lie outside the request: not CLOCK_MONOTONIC?",
        )
        _require(outside - inside <= max(1_000_000, outside // 100), f"{(outside - inside) / 1e6:.2f} ms unaccounted for")


def streams_only_when_asked(subject: Subject) -> None:
    with _talk(subject) as talk:
        loaded = talk.load()
        events: list[Event] = []
        talk.generate(loaded, on_event=events.append)
        _require(not events, f"{len(events)} events without stream")
        generated = talk.generate(loaded, stream=True, on_event=events.append)[0]
        streamed = [event.token for event in events if isinstance(event, Token)]
        _require(streamed == list(unpack_ids(generated.tokens)), f"streamed {streamed}")


def scores_as_it_generates(subject: Subject) -> None:
    """Greedy generation is the argmax of the scores; an instrument may refuse to score."""
    with _talk(subject) as talk:
        loaded = talk.load()
        generated, _, prompt = talk.generate(loaded)
        ids = list(unpack_ids(generated.tokens))
        tokens = [*unpack_ids(prompt), *ids[:-1]]
        try:
            scored = talk.client.score(tokens, N_PROMPT, SILENCE_SECONDS)
        except EngineFailure as failure:
            exempt = subject.info is not None and subject.info.role != "engine"
            _require(exempt and failure.code == "unsupported", f"score failed: {failure}")
            return
        logits = np.load(scored.path, allow_pickle=False)
        _require(logits.shape == (N_GEN, loaded.vocab_size), f"logits of shape {logits.shape}")
        _require(bool(np.isfinite(logits).all()), "logits are not finite")
        _require(logits.argmax(axis=1).tolist() == ids, "greedy tokens are not the argmax of the scores")


def refuses_an_unknown_configuration(subject: Subject) -> None:
    _refuses(subject, "unsupported", configuration="no-such-configuration")


def refuses_a_missing_model(subject: Subject) -> None:
    if subject.info is not None and subject.info.role == "test":
        return  # it has no model
    _refuses(subject, "bad-model", model_path="/nonexistent/model.gguf")


def _refuses(subject: Subject, code: str, **changes: Any) -> None:
    with _talk(subject) as talk:
        try:
            talk.load(**changes)
        except EngineFailure as failure:
            _require(failure.code == code, f"code {failure.code!r} instead of {code!r}: {failure}")
        else:
            raise _Violation(f"loaded with {changes}")
        talk.generate(talk.load())


def ends_on_garbage(subject: Subject) -> None:
    with _talk(subject) as talk:
        talk.client.stream.send(b"\xc1 this is no message")
        code = talk.child.wait(EXIT_SECONDS)
        _require(code not in (None, 0), f"exit code {code} after garbage")


def ends_on_an_unknown_message(subject: Subject) -> None:
    with _talk(subject) as talk:
        known = encode(Unload(id=1))
        talk.client.stream.send(known.replace(b"unload", b"unlade"))
        code = talk.child.wait(EXIT_SECONDS)
        _require(code not in (None, 0), f"exit code {code} after an unknown message")


def ends_with_its_parent(subject: Subject) -> None:
    with _talk(subject) as talk:
        started = time.monotonic()
        talk.child.close(grace=EXIT_SECONDS)
        _require(time.monotonic() - started < EXIT_SECONDS, "still running after stdin was closed")


def _silent(talk: Conversation) -> bool:
    try:
        talk.client.stream.receive(timeout=1.0)
    except StreamClosed:
        return True
    return False


CHECKS: dict[str, Callable[[Subject], None]] = {
    "says hello first, with its nonce and pid": says_hello,
    "configurations equal its pyproject table": matches_its_table,
    "loads, generates, accounts, unloads, shuts down with code 0": lives_an_orderly_life,
    "reports context and threads as asked": reports_what_it_loaded,
    "generates exactly n_gen ids of its vocabulary and echoes the prompt": generates_exactly_what_was_asked,
    "starts every request from an empty cache": forgets_earlier_requests,
    "stamps tokens on the shared clock, within the parent's stamps": stamps_agree_with_ours,
    "streams tokens only when asked": streams_only_when_asked,
    "scores what it generates": scores_as_it_generates,
    "refuses an unknown configuration and lives on": refuses_an_unknown_configuration,
    "refuses a missing model and lives on": refuses_a_missing_model,
    "ends on garbage": ends_on_garbage,
    "ends on an unknown message": ends_on_an_unknown_message,
    "ends when its stdin is closed": ends_with_its_parent,
}
