"""The engine beside a bare loop over the official client, in one server, taking turns. What selfbench.py runs.

python packages/engine-ollama/tests/bare_client.py MODEL.gguf ROUNDS, in the engine's environment with `ollama` on PATH:
prints a JSON list of [engine, bare client], a pair of `Times` for each round that Ollama did not break off.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
import time
from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from engine_ollama.engine import OllamaEngine
from enginebench_protocol.host import cache_folder, default_threads
from enginebench_protocol.messages import Load
from enginebench_protocol.prompts import prompt_ids
from enginebench_protocol.serve import timed_generate

N_PROMPT, N_GEN = 128, 64


@dataclass(frozen=True)
class Times:
    """Of one request, in seconds: the first token, one of the later ones, and one by the server's own account."""

    ttft: float
    tpot: float
    reported_tpot: float


def main(model: Path, rounds: int) -> None:
    engine = OllamaEngine()
    with tempfile.TemporaryDirectory() as scratch:
        cache = cache_folder() / "kernels" / "ollama"
        cache.mkdir(parents=True, exist_ok=True)
        request = Load(
            id=1, configuration="default", model_path=str(model), n_ctx=N_PROMPT + N_GEN, device="cpu",
            threads=default_threads(), cache=str(cache), scratch=scratch,
        )  # fmt: skip
        vocab_size = engine.load(request, lambda stage, fraction: None).vocab_size
        try:
            prompts = (prompt_ids(0, number, N_PROMPT, vocab_size) for number in itertools.count())
            one_round(engine, prompts, engine_first=True)  # to warm up
            rounds_done = [one_round(engine, prompts, engine_first=number % 2 == 0) for number in range(rounds)]
        finally:
            engine.unload()
    pairs = [(asdict(ours), asdict(bare)) for ours, bare in rounds_done if ours is not None and bare is not None]
    print(json.dumps(pairs))


def one_round(
    engine: OllamaEngine, prompts: Iterator[array[int]], engine_first: bool
) -> tuple[Times | None, Times | None]:
    if engine_first:
        return by_engine(engine, next(prompts)), by_bare_client(engine, next(prompts))
    bare = by_bare_client(engine, next(prompts))
    return by_engine(engine, next(prompts)), bare


def by_engine(engine: OllamaEngine, prompt: array[int]) -> Times | None:
    _, start_ns, stamps = timed_generate(engine, prompt, N_GEN)
    reported = engine.reported()
    return measured(start_ns, list(stamps), reported["decode_ns"] if reported["n_requests"] == 1 else None)


def by_bare_client(engine: OllamaEngine, prompt: array[int]) -> Times | None:
    """What anybody would write: stream the parts, look at the clock."""
    client = engine._client
    assert client is not None
    text, options = client._words.text(prompt), {**client._options, "num_predict": N_GEN}
    start_ns = time.perf_counter_ns()
    stream = client._client.generate(client._model, text, raw=True, options=options, stream=True, keep_alive=-1)
    parts = [(time.perf_counter_ns(), part) for part in stream]
    stamps = [stamp for stamp, part in parts if part.response]
    return measured(start_ns, stamps, parts[-1][1].eval_duration if parts[-1][1].done else None)


def measured(start_ns: int, stamps: list[int], eval_duration_ns: int | None) -> Times | None:
    """None where Ollama broke off in the middle: the model repeated itself."""
    if eval_duration_ns is None:
        return None
    tpot = (stamps[-1] - stamps[0]) / (N_GEN - 1)
    return Times((stamps[0] - start_ns) / 1e9, tpot / 1e9, eval_duration_ns / N_GEN / 1e9)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
