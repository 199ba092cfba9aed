"""Token ids to and from one model of a server, through the official client: greedy or drawn, streamed, counted.

A prompt that begins like what the server still holds would be answered from its prefix cache; `forget` is for that.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from typing import Any

import httpx
import ollama
from enginebench_protocol.engine import GREEDY, Sampling

from .words import Words

TOP_LOGPROBS = 20
"""All that Ollama gives (server/routes.go, "top_logprobs must be between 0 and 20")."""

REPEATS = 31
"""The same token so often in a row, and Ollama breaks off without a last word (llm/server.go, `tokenRepeat > 30`)."""

DEFAULTS: Mapping[str, float] = {"temperature": 0, "repeat_penalty": 1.0, "seed": 1}
"""Of every request, greedy. Ollama's own repeat_penalty changes the logits, and the choice with them."""


NEUTRAL: Mapping[str, float] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0}
"""Every id keeps its probability: nothing is cut off before a draw (sample/samplers.go, llama.cpp's samplers)."""
SEEDS = 1 << 31
"""llama.cpp's seeds have 32 bits, and the largest one means none."""


class WrongCount(Exception):
    """The server did other work than was asked for."""


@dataclass(frozen=True)
class Answer:
    """What the server itself says of a request when it is done.

    load_ns     Ollama's load_duration: finding the model loaded, here
    prefill_ns  prompt_eval_duration: up to the first token
    decode_ns   eval_duration: from the first token to the last
    total_ns    total_duration
    """

    n_prompt: int
    n_gen: int
    load_ns: int
    prefill_ns: int
    decode_ns: int
    total_ns: int


class Client:
    """Speaks to one server about one model."""

    def __init__(self, client: ollama.Client, model: str, words: Words, options: Mapping[str, Any]) -> None:
        self._client = client
        self._model = model
        self._words = words
        self._options = {**DEFAULTS, **options}
        self._held = array("i")
        self._answers: list[Answer] = []
        self._n_requests = 0

    def preload(self) -> None:
        """Raises ollama.ResponseError if the server does not take the model."""
        self._client.generate(self._model, "", options=self._options, keep_alive=-1)

    def release(self) -> None:
        """Let the server drop the model, as far as it still answers."""
        with suppress(ollama.ResponseError, httpx.HTTPError, ConnectionError):
            self._client.generate(self._model, "", keep_alive=0)

    def bytes_on_device(self) -> int:
        """Of GPU memory, for this model, as the server has it."""
        return sum(running.size_vram or 0 for running in self._client.ps().models if running.model == self._model)

    def tokens(self, prompt: array[int], n_gen: int, sampling: Sampling = GREEDY) -> Iterator[int]:
        """Yields `n_gen` ids. Raises WrongCount, NotAWord, ollama.ResponseError.

        Neither the id that ends a sequence nor one that repeats itself is special to us: the server stops there, and
        is asked to go on. Closed early, the connection is, and the server gives the request up.
        """
        self._answers, self._n_requests = [], 0
        self._held = known = array("i", prompt)  # grows with each id, so that it is right whenever we are closed
        while (missing := len(prompt) + n_gen - len(known)) > 0:
            with closing(self._streamed(known[:], missing, self._drawing(sampling))) as ids:
                for token in ids:
                    known.append(token)
                    yield token

    def _drawing(self, sampling: Sampling) -> dict[str, float]:
        """Options of the next request; one that goes on where the server stopped draws on with another seed."""
        if sampling.greedy:
            return {}
        seed = (sampling.seed + self._n_requests) % SEEDS
        return {**NEUTRAL, "temperature": sampling.temperature, "seed": seed}

    def _streamed(self, prompt: array[int], n_gen: int, drawing: Mapping[str, float]) -> Generator[int]:
        self._n_requests += 1
        produced = array("i")
        for part in self._ask(prompt, n_gen, drawing, stream=True):
            if part.response:
                ids = self._words.ids(part.response)
                produced.extend(ids)
                yield from ids
            if part.done:
                if part.done_reason == "stop":  # it counts the id that it stopped at, and does not tell it
                    produced.append(self._words.end)
                    yield self._words.end
                self._answers.append(checked(part, len(prompt), len(produced)))
                return
        if len(produced) < REPEATS or len(set(produced[-REPEATS:])) > 1:
            raise WrongCount(f"the answer broke off after {len(produced)} of {n_gen} tokens")

    def reported(self) -> dict[str, int]:
        """The server's account of the last `tokens`: the sum of its answers, of which it owes one to each request.

        What it broke off after a repetition is in none of them; `n_gen` says how many tokens they are about.
        """
        answers = sum((Counter(asdict(answer)) for answer in self._answers), Counter[str]())
        return {**answers, "n_requests": self._n_requests}

    def forget(self, prompt: Sequence[int]) -> None:
        """Make the server drop what it holds, if `prompt` begins like that."""
        if self._held[:1] == array("i", prompt[:1]):
            other = 0 if prompt[0] else 1
            list(self._ask(array("i", [other]), 1, {}, stream=True))
            self._held = array("i", [other])

    def most_likely(self, prompt: array[int]) -> list[tuple[int, float]]:
        """The ids that may follow and their log-probabilities, TOP_LOGPROBS of them, the likeliest first."""
        parts = list(self._ask(prompt, 1, {}, stream=True, logprobs=True, top_logprobs=TOP_LOGPROBS))
        self._held = prompt
        positions = [position for part in parts for position in part.logprobs or ()]
        if len(positions) != 1:
            raise WrongCount(f"{len(positions)} lists of log-probabilities after {len(prompt)} tokens, 1 was expected")
        return [(self._words.ids(top.token)[0], top.logprob) for top in positions[0].top_logprobs or ()]

    def _ask(
        self, prompt: array[int], n_gen: int, drawing: Mapping[str, float], **settings: Any
    ) -> Iterator[ollama.GenerateResponse]:
        options = {**self._options, **drawing, "num_predict": n_gen}
        return self._client.generate(  # type: ignore[no-any-return]
            self._model, self._words.text(prompt), raw=True, options=options, keep_alive=-1, **settings
        )


def checked(last: ollama.GenerateResponse, n_prompt: int, n_gen: int) -> Answer:
    """The server's own account. Raises WrongCount where it is not about what was sent and received."""
    counts = (last.prompt_eval_count or 0, last.eval_count or 0)
    if counts != (n_prompt, n_gen):
        what = f"{counts[0]} prompt tokens and {counts[1]} generated ones"
        raise WrongCount(f"the server counts {what}, {n_prompt} were sent and {n_gen} came")
    return Answer(
        *counts,
        load_ns=last.load_duration or 0,
        prefill_ns=last.prompt_eval_duration or 0,
        decode_ns=last.eval_duration or 0,
        total_ns=last.total_duration or 0,
    )
