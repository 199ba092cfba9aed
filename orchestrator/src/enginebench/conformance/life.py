"""A whole life of an engine, from hello to shutdown, with a few wrong requests on the way."""

from __future__ import annotations

import hashlib
import os
from array import array
from typing import Any

import numpy as np
from enginebench_models.checkpoint import open_checkpoint
from enginebench_models.plain_name import own_file
from enginebench_protocol.client import Received
from enginebench_protocol.codec import decode, encode, pack_ids, unpack_ids, unpack_times
from enginebench_protocol.engine import Sampling
from enginebench_protocol.errors import EngineFailure
from enginebench_protocol.framing import framed
from enginebench_protocol.messages import (
    FAILURE_CODES,
    Cancel,
    Event,
    FromEngine,
    Generate,
    Generated,
    Load,
    Loaded,
    Request,
    Token,
)
from enginebench_protocol.prompts import ids_sha256, prompt_ids

from enginebench.conformance.launch import N_CTX, Launch, NotApplicable, Step, Violation, require

N_PROMPT, N_GEN = 16, 12
HOT, COLD = 2.0, 1e-6
"""Temperatures: at the one two seeds draw the same ids by no accident, at the other nothing but the likeliest comes."""
LOAD_SECONDS, REQUEST_SECONDS = 900.0, 300.0
STAMP_TRIES = 20
"""A busy machine may delay the parent in many requests; an engine whose clock is wrong is wrong in each."""


class Life(Launch):
    """Steps in the order of their names below."""

    loaded: Loaded
    first: Generated

    def steps(self) -> list[Step]:
        return [
            Step("hello comes first and is valid", self.greet, vital=True),
            Step("its configurations are those of its table", self.same_configurations),
            Step("generate before load is refused", self.refuses_to_generate_nothing),
            Step("an unknown configuration is unsupported", self.refuses_unknown_configuration),
            Step("a missing model is refused", self.refuses_missing_model),
            Step("load reports what was loaded", self.loads, vital=True),
            Step("the weights are those of the model file", self.same_weights),
            Step("generate yields n_gen ids of the vocabulary", self.generates, vital=True),
            Step("the prompt's hash is echoed", self.echoes_prompt),
            Step("the same prompt gives the same ids, also after another one", self.repeats),
            Step("one token can be generated", self.generates_one),
            Step("stamps increase and agree with the parent's", self.stamps_agree),
            Step("tokens are streamed when asked for", self.streams),
            Step("a stop id is the last token", self.stops),
            Step("nothing is left of a request that was ended early", self.forgets),
            Step("a cancel ends a request that streams", self.cancels),
            Step("a cancel that comes too late changes nothing", self.drops_late_cancel),
            Step("the same seed draws the same ids, another one others", self.draws),
            Step("at a temperature near 0 the ids are the greedy ones", self.cools),
            Step("greedy requests are as before, also after drawing", self.as_ever),
            Step("an id outside the vocabulary is refused", self.refuses_foreign_id),
            Step("more positions than the context are refused", self.refuses_long_prompt),
            Step("score gives finite logits of the right shape", self.scores),
            Step("generate chooses the largest logit of score", self.chooses_largest),
            Step("memory is accounted for", self.accounts),
            Step("unload leaves no model", self.unloads),
            Step("load works again after unload", self.loads_again),
            Step("shutdown ends with exit code 0", self.shuts_down),
            Step("stdout carried nothing but frames", self.nothing_left),
        ]

    def same_configurations(self) -> None:
        if self.subject.info is None:
            raise NotApplicable("no table to compare with")
        table, told = set(self.subject.info.configurations), set(self.hello.configurations)
        require(table == told, f"in one but not in the other: {', '.join(sorted(table ^ told))}")

    def refuses_to_generate_nothing(self) -> None:
        self._refused(self._generate_request(pack_ids([1]), 1), "bad-request")

    def refuses_unknown_configuration(self) -> None:
        self._refused(Load(id=1, **self.load_fields() | {"configuration": "no-such-configuration"}), "unsupported")

    def refuses_missing_model(self) -> None:
        if self.subject.role == "test":
            raise NotApplicable("an engine for tests reads no model")
        missing = str(self.scratch / "no-such-model.gguf")
        self._refused(Load(id=1, **self.load_fields() | {"model_path": missing}), "bad-model")

    def loads(self) -> None:
        self.loaded = self.client.load(LOAD_SECONDS, **self.load_fields())
        asked = self.load_fields()
        require(self.loaded.n_ctx >= N_CTX, f"n_ctx {self.loaded.n_ctx} is below the {N_CTX} asked for")
        require(self.loaded.threads <= asked["threads"], f"{self.loaded.threads} threads, asked for {asked['threads']}")
        if self.subject.info is not None:
            table = self.subject.info.configurations[asked["configuration"]]
            what = f"precision {self.loaded.precision!r}, the table says {table.precision!r}"
            require(self.loaded.precision == table.precision, what)

    def same_weights(self) -> None:
        if self.subject.role == "test":
            raise NotApplicable("an engine for tests reads no model")
        expected = open_checkpoint(self.subject.model_path).fingerprint
        require(self.loaded.weights_fingerprint == expected, f"fingerprint {self.loaded.weights_fingerprint}")

    def generates(self) -> None:
        self.first, _ = self._generate(self._prompt(0), N_GEN)
        ids = unpack_ids(self.first.tokens)
        require(len(ids) == N_GEN, f"{len(ids)} ids instead of {N_GEN}")
        outside = [i for i in ids if i >= self.loaded.vocab_size]
        require(not outside, f"ids {outside} outside the vocabulary of {self.loaded.vocab_size}")

    def echoes_prompt(self) -> None:
        require(self.first.n_prompt == N_PROMPT, f"n_prompt {self.first.n_prompt} instead of {N_PROMPT}")
        require(self.first.prompt_sha256 == ids_sha256(self._prompt(0)), "another hash than that of the ids sent")

    def repeats(self) -> None:
        again, _ = self._generate(self._prompt(0), N_GEN)
        self._generate(self._prompt(1), N_GEN)
        after_another, _ = self._generate(self._prompt(0), N_GEN)
        first, *later = (list(unpack_ids(g.tokens)) for g in (self.first, again, after_another))
        require(first == later[0], f"first {first}, then {later[0]}")
        require(first == later[1], f"first {first}, after another prompt {later[1]}: is the KV cache emptied?")

    def generates_one(self) -> None:
        generated, _ = self._generate(self._prompt(0), 1)
        require(generated.tokens == self.first.tokens[:4], "another id than the first of a longer request")

    def stamps_agree(self) -> None:
        doubt = ""
        for _ in range(STAMP_TRIES):
            doubt = stamp_doubt(*self._generate(self._prompt(0), N_GEN))
            if not doubt:
                return
        raise Violation(doubt)

    def streams(self) -> None:
        events: list[Event] = []
        generated, _ = self._generate(self._prompt(0), N_GEN, stream=True, on_event=events.append)
        streamed = [(e.index, e.token) for e in events if isinstance(e, Token)]
        expected = list(enumerate(unpack_ids(generated.tokens)))
        require(streamed == expected, f"events {streamed}, reply {expected}")

    def stops(self) -> None:
        whole = list(unpack_ids(self.first.tokens))
        stop = whole[N_GEN // 2]
        expected = whole[: whole.index(stop) + 1]
        generated, _ = self._generate(self._prompt(0), N_GEN, stop=[stop])
        ids, n_times = list(unpack_ids(generated.tokens)), len(unpack_times(generated.t_token_ns))
        require(ids == expected, f"ids {ids} with stop id {stop}, expected {expected}")
        require(n_times == len(ids), f"{n_times} times for {len(ids)} tokens")

    def cancels(self) -> None:
        """Both frames are in the pipe before the engine reads the first: it finds the cancel after its first token."""
        longest = N_CTX - N_PROMPT
        streamed, ids = self._cancelled(longest)
        require(len(ids) < longest, f"all {longest} tokens, although a cancel was waiting after the first one")
        require(streamed == ids, f"events {streamed}, reply {ids}")
        whole = list(unpack_ids(self.first.tokens))
        require(ids[:N_GEN] == whole[: len(ids)], f"ids {ids} before the end, the whole request has {whole}")

    def drops_late_cancel(self) -> None:
        for request_id in (self.client.new_id(), 2**31):
            self.client.stream.send(encode(Cancel(id=request_id)))
        self.as_ever()

    def forgets(self) -> None:
        """Ended after the first token, and after a few."""
        for n_gen, stream in ((1, False), (3, True)):
            stop = unpack_ids(self._generate(self._prompt(1), n_gen)[0].tokens)[-1]
            self._generate(self._prompt(1), N_GEN, stop=[stop], stream=stream)
            self.as_ever()

    def draws(self) -> None:
        first, again, other = (self._drawn(HOT, seed) for seed in (7, 7, 8))
        require(first == again, f"first {first}, then {again} with the same seed")
        require(first != other, f"two seeds draw the same {N_GEN} ids {first} at temperature {HOT:g}")

    def cools(self) -> None:
        cold, greedy = self._drawn(COLD, 7), list(unpack_ids(self.first.tokens))
        require(cold == greedy, f"ids {cold} at temperature {COLD:g}, greedy {greedy}")

    def as_ever(self) -> None:
        generated, _ = self._generate(self._prompt(0), N_GEN)
        ids, first = list(unpack_ids(generated.tokens)), list(unpack_ids(self.first.tokens))
        require(ids == first, f"first {first}, now {ids}")

    def refuses_foreign_id(self) -> None:
        self._refused(self._generate_request(pack_ids([self.loaded.vocab_size]), 1), "bad-request")

    def refuses_long_prompt(self) -> None:
        self._refused(self._generate_request(pack_ids([1] * self.loaded.n_ctx), 1), "bad-request")

    def scores(self) -> None:
        self._needs_logits()
        logits, n_rows = self._logits()
        expected = (N_GEN, self.loaded.vocab_size)
        require(n_rows == N_GEN, f"n_rows {n_rows} instead of {N_GEN}")
        require(logits.shape == expected, f"shape {logits.shape} instead of {expected}")
        require(logits.dtype == np.float32, f"dtype {logits.dtype} instead of float32")
        require(not np.isinf(logits).any(), "infinity among the logits")
        told = np.isfinite(logits).sum(axis=1)
        expected_numbers = self.loaded.top_logprobs or self.loaded.vocab_size
        require(bool((told == expected_numbers).all()), f"{told.min()} numbers in a row, expected {expected_numbers}")

    def chooses_largest(self) -> None:
        """Row 0 exactly (ties allowed). Later rows within 1 % of the row's spread: kernels may round differently."""
        self._needs_logits()
        logits, _ = self._logits()
        for row, (values, chosen) in enumerate(zip(logits, unpack_ids(self.first.tokens), strict=True)):
            largest = float(np.nanmax(values))
            spread = 0.0 if row == 0 else 0.01 * (largest - float(np.nanmin(values)))
            what = f"token {row} is {chosen} (logit {values[chosen]:g}), the largest is {np.nanargmax(values)}"
            require(bool(values[chosen] >= largest - spread), f"{what} ({largest:g})")

    def accounts(self) -> None:
        account = self.client.memory(REQUEST_SECONDS)
        if self.subject.role != "test":
            require(account.weights_bytes > 0, "0 bytes of weights")

    def unloads(self) -> None:
        self.client.unload(REQUEST_SECONDS)
        self._refused(self._generate_request(self._prompt(0), 1), "bad-request")

    def loads_again(self) -> None:
        self.client.load(LOAD_SECONDS, **self.load_fields())
        generated, _ = self._generate(self._prompt(0), N_GEN)
        require(generated.tokens == self.first.tokens, "other ids than after the first load")

    def shuts_down(self) -> None:
        self.client.shutdown(REQUEST_SECONDS)
        self.ends("0", lambda code: code == 0)

    def nothing_left(self) -> None:
        try:
            rest = os.read(self.child.read_fd, 4096)
        except BlockingIOError:
            raise Violation("another process still holds the reply stream open") from None
        require(not rest, f"{len(rest)} bytes after the last frame: {rest[:60]!r}")

    def _prompt(self, iteration: int) -> bytes:
        return pack_ids(prompt_ids(0, iteration, N_PROMPT, self.loaded.vocab_size))

    def _generate(self, prompt: bytes, n_gen: int, **options: Any) -> tuple[Generated, Received]:
        return self.client.generate(prompt, n_gen, REQUEST_SECONDS, **options)

    def _cancelled(self, n_gen: int) -> tuple[list[int], list[int]]:
        """Ids as they were streamed, and those of the reply."""
        request = Generate(id=self.client.new_id(), prompt=self._prompt(0), n_gen=n_gen, stream=True)
        frames = b"".join(framed(encode(message)) for message in (request, Cancel(id=request.id)))
        os.write(self.child.write_fd, frames)
        streamed: list[int] = []
        while isinstance(message := self._received(), Token):
            streamed.append(message.token)
        if not isinstance(message, Generated):
            raise Violation(f"answered with {type(message).__name__.lower()}: {getattr(message, 'message', '')}")
        require(message.id == request.id, f"the reply has id {message.id}, the request {request.id}")
        return streamed, list(unpack_ids(message.tokens))

    def _received(self) -> FromEngine:
        message: FromEngine = decode(self.client.stream.receive(timeout=REQUEST_SECONDS), FromEngine)
        return message

    def _drawn(self, temperature: float, seed: int) -> list[int]:
        """Raises NotApplicable if the engine says that it cannot."""
        try:
            generated, _ = self._generate(self._prompt(0), N_GEN, sampling=Sampling(temperature, seed))
        except EngineFailure as failure:
            require(failure.code == "unsupported", f"failed with {failure.code!r} ({failure}) instead of 'unsupported'")
            raise NotApplicable(failure.message) from None
        return list(unpack_ids(generated.tokens))

    def _generate_request(self, prompt: bytes, n_gen: int) -> Generate:
        return Generate(id=1, prompt=prompt, n_gen=n_gen)

    def _refused(self, request: Request, code: str) -> None:
        """The request fails, with this code, and the engine lives on."""
        try:
            reply = self.client.request(request, LOAD_SECONDS).reply
        except EngineFailure as failure:
            require(failure.code in FAILURE_CODES, f"unknown failure code {failure.code!r}")
            require(failure.code == code, f"failed with {failure.code!r} ({failure}) instead of {code!r}")
            return
        raise Violation(f"answered with {type(reply).__name__.lower()} instead of failed")

    def _needs_logits(self) -> None:
        if self.subject.role != "engine":
            raise NotApplicable("an instrument has no logits")

    def _logits(self) -> tuple[np.ndarray[Any, np.dtype[Any]], int]:
        """Teacher-forced over what generate made: one row for each of its tokens."""
        fed = [*unpack_ids(self._prompt(0)), *unpack_ids(self.first.tokens)[:-1]]
        scored = self.client.score(fed, N_PROMPT, REQUEST_SECONDS)
        path = own_file(scored.path, self.scratch, "the file of logits")
        data = path.read_bytes()
        require(hashlib.sha256(data).hexdigest() == scored.sha256, "the file has another hash than the reply")
        return np.load(path, allow_pickle=False), scored.n_rows


def stamp_doubt(generated: Generated, received: Received) -> str:
    """What is wrong with the engine's stamps, by those of the parent; empty if nothing is."""
    times: array[int] = unpack_times(generated.t_token_ns)
    if len(times) * 4 != len(generated.tokens):
        return f"{len(times)} times for {len(generated.tokens) // 4} tokens"
    if not received.t_sent_ns <= generated.t_start_ns <= times[0] or times[-1] > received.t_received_ns:
        return "a stamp lies outside the time between request and reply"
    inside_ns = times[-1] - generated.t_start_ns
    outside_ns = received.t_received_ns - received.t_sent_ns
    if outside_ns - inside_ns > max(1_000_000, outside_ns // 100):
        return f"the request took {outside_ns / 1e6:.3f} ms outside, {inside_ns / 1e6:.3f} ms by its stamps"
    return ""
