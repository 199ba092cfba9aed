"""The fidelity ladder of one case, alone: spawn, load, score, generate, judge. Nothing is timed."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from enginebench_models.checkpoint import Checkpoint
from enginebench_models.fidelity import probe_ids
from enginebench_models.plain_name import Stray, own_file
from enginebench_models.reference_cache import reference_choices, reference_logits
from enginebench_protocol.client import Client
from enginebench_protocol.codec import pack_ids
from enginebench_protocol.errors import EngineFailure, ProtocolError
from enginebench_protocol.messages import Loaded

from enginebench.judge.fidelity_gate import BadLogits, read_logits
from enginebench.judge.ladder import Rung, Scored, greedy_rung, logit_rungs, repeat_rung
from enginebench.judge.reference_weights import BadWeights, ReferenceWeights, Source
from enginebench.store.record import PROBE_DECODE, PROBE_PREFILL
from enginebench.workspace.environment import Interpreter

from .answer import WrongOutput, work_of
from .guard import Watchdog
from .limits import Limits
from .process import ChildProcess
from .vigil import Vigil, watched

Say = Callable[[str], None]


@dataclass(frozen=True)
class VerifyOrder:
    """What one case is asked: `n_sequences` of 128 ids to score, and as many greedy answers of `n_greedy` ids."""

    engine: str
    configuration: str
    module: str
    model_path: Path
    device: str
    threads: int
    cache: Path
    n_sequences: int
    n_greedy: int
    silence_seconds: float


class Unverified(Exception):
    """The engine could not be asked; the message says why."""


def verify(order: VerifyOrder, checkpoint: Checkpoint, interpreter: Interpreter, watchdog: Watchdog) -> list[Rung]:
    """Raises Unverified where the engine did not come so far."""
    nonce = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="verify-", dir=watchdog.folder) as scratch:
        environment = {**interpreter.environment, "TMPDIR": scratch}
        try:
            child = ChildProcess(interpreter.command(order.module, nonce), environment, Path(scratch), watchdog)
        except OSError as not_started:
            raise Unverified(str(not_started)) from None
        try:
            client, vigil = watched(child, Limits(), order.silence_seconds, order.device)
            vigil.enter("hello")
            client.hello(order.engine, nonce, order.silence_seconds)
            return _climbed(order, checkpoint, client, vigil, Path(scratch))
        except (ProtocolError, EngineFailure, BadLogits, BadWeights, Stray, WrongOutput) as error:
            raise Unverified(str(error)) from None
        finally:
            child.close(grace=1.0)


def _climbed(order: VerifyOrder, checkpoint: Checkpoint, client: Client, vigil: Vigil, scratch: Path) -> list[Rung]:
    vigil.enter("load")
    loaded = _load(order, client, scratch)
    vocab, length = checkpoint.config.vocab_size, PROBE_PREFILL + PROBE_DECODE
    sequences = [probe_ids(vocab, length, seed) for seed in range(order.n_sequences)]
    weights = ReferenceWeights().of(checkpoint, loaded.weights_path, order.cache)
    scored = [_scored(ids, order, weights, client, vigil, loaded.precision, scratch) for ids in sequences]
    answers = [_answer(ids, order, client, vigil, vocab) for ids in sequences]
    again = _answer(sequences[-1], order, client, vigil, vocab)
    choices = [
        reference_choices(weights, ids[:PROBE_PREFILL], answer, precision=loaded.precision)
        for ids, answer in zip(sequences, answers, strict=True)
    ]
    rungs = logit_rungs(scored, loaded.precision, loaded.top_logprobs)
    return [*rungs, greedy_rung(choices, loaded.precision), repeat_rung(answers[-1], again)]


def _load(order: VerifyOrder, client: Client, scratch: Path) -> Loaded:
    return client.load(
        order.silence_seconds,
        lambda event: None,
        configuration=order.configuration,
        model_path=str(order.model_path),
        n_ctx=PROBE_PREFILL + max(PROBE_DECODE, order.n_greedy),
        device=order.device,
        threads=order.threads,
        cache=str(order.cache),
        scratch=str(scratch),
        options={},
    )


def _scored(
    ids: list[int],
    order: VerifyOrder,
    weights: Source,
    client: Client,
    vigil: Vigil,
    precision: str,
    scratch: Path,
) -> Scored:
    vigil.enter("score")
    told = client.score(ids, PROBE_PREFILL, order.silence_seconds)
    path = own_file(told.path, scratch, "the file of logits")
    candidate = read_logits(path, told.sha256, (PROBE_DECODE + 1, weights.config.vocab_size))
    reference = reference_logits(weights, ids, PROBE_PREFILL, precision=precision)
    return Scored(reference, candidate.copy(), ids[PROBE_PREFILL:])


def _answer(ids: Sequence[int], order: VerifyOrder, client: Client, vigil: Vigil, vocab_size: int) -> list[int]:
    vigil.enter("request")
    generated, _ = client.generate(pack_ids(ids[:PROBE_PREFILL]), order.n_greedy, order.silence_seconds)
    return list(work_of(generated, order.n_greedy, vocab_size)[0])
