"""One request at a time through vLLM's engine, step by step: greedy or drawn ids, or the logits of given ids.

The engine is vLLM's own: its scheduler, its paged cache, its sampler. A step that ends a token hands its id over; the
steps of a prompt cut in pieces, and the first of an engine that schedules one step ahead, hand over nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt
from vllm import SamplingParams
from vllm.inputs import tokens_input
from vllm.outputs import CompletionOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.llm_engine import LLMEngine

from engine_vllm.settings import drawn, forced, greedy

ANY_ID = 0


class Misled(Exception):
    """vLLM did not follow the tokens it was given."""


class Decoder:
    """`engine` runs in this process (settings.environment), so that a step returns when its id is on the host."""

    def __init__(self, engine: LLMEngine, vocab_size: int) -> None:
        self.engine = engine
        self.vocab_size = vocab_size
        self._numbers = count()
        self._swap_replay()

    def generate(self, prompt: Sequence[int], n_gen: int) -> Iterator[int]:
        for output in self._request(prompt, greedy(n_gen)):
            yield from output.token_ids

    def sample(self, prompt: Sequence[int], n_gen: int, temperature: float, seed: int) -> Iterator[int]:
        for output in self._request(prompt, drawn(n_gen, temperature, seed)):
            yield from output.token_ids

    def score(self, tokens: Sequence[int], n_prefill: int) -> npt.NDArray[np.float32]:
        """float32 [len(tokens) - n_prefill + 1, vocab]: what follows the prefill and each token after it.

        vLLM's trace replay: each step computes and chooses as in `generate`, then the choice is overwritten. The last
        row needs one more step, whose choice nothing follows. Raises Misled.
        """
        trace = [*tokens[n_prefill:], ANY_ID]
        rows = np.empty((len(trace), self.vocab_size), np.float32)
        followed: list[int] = []
        with self._replay():
            for output in self._request(tokens[:n_prefill], forced(trace)):
                rows[len(followed)] = logits_of(output, self.vocab_size)
                followed += output.token_ids
        if followed != trace:
            raise Misled(f"vLLM decoded {followed[:8]}… instead of {trace[:8]}…")
        return rows

    def close(self) -> None:
        self.engine.engine_core.shutdown()

    def _request(self, prompt: Sequence[int], parameters: dict[str, Any]) -> Iterator[CompletionOutput]:
        """What each step adds, until the request is finished."""
        number = str(next(self._numbers))
        sampling = SamplingParams(**parameters, output_kind=RequestOutputKind.DELTA)
        request = self.engine.add_request(number, tokens_input(list(prompt)), sampling)
        finished = False
        try:
            while not finished:
                for output in self.engine.step():
                    finished = output.finished
                    yield output.outputs[0]
        finally:
            if not finished:
                self.engine.abort_request([request], internal=True)

    @contextmanager
    def _replay(self) -> Iterator[None]:
        self._swap_replay()
        try:
            yield
        finally:
            self._swap_replay()

    def _swap_replay(self) -> None:
        self.engine.collective_rpc(swap_replay)


def swap_replay(worker: Any) -> None:
    """Give the sampler its trace replay, or take it away: it launches a kernel for each token, forced or not.

    vllm/v1/worker/gpu/sample/sampler.py skips what is None.
    """
    sampler = worker.model_runner.sampler
    hidden = getattr(sampler, "hidden_replay_state", None)
    sampler.hidden_replay_state, sampler.trace_replay_state = sampler.trace_replay_state, hidden


def logits_of(output: CompletionOutput, vocab_size: int) -> npt.NDArray[np.float32]:
    """[vocab], from a list in descending order that names the chosen id first, and again in its place."""
    shown = output.logprobs
    row = np.full(vocab_size, np.nan, np.float32)
    row[np.array(shown.token_ids)] = shown.logprobs
    if np.isnan(row).any():
        raise Misled(f"vLLM showed {np.count_nonzero(~np.isnan(row))} of {vocab_size} logits")
    return row
