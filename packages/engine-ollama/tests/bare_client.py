"""The engine beside the server's own account and a bare loop over the official client, in one server, interleaved.

python packages/engine-ollama/tests/bare_client.py MODEL.gguf [ROUNDS] prints medians and ratios; `ollama` is on PATH.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import tempfile
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
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
            one_round(engine, prompts)  # to warm up
            rounds_done = [one_round(engine, prompts) for _ in range(rounds)]
        finally:
            engine.unload()
    print_ratios([(ours, bare) for ours, bare in rounds_done if ours is not None and bare is not None])


def one_round(engine: OllamaEngine, prompts: Iterator[array[int]]) -> tuple[Times | None, Times | None]:
    return by_engine(engine, next(prompts)), by_bare_client(engine, next(prompts))


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


def print_ratios(pairs: list[tuple[Times, Times]]) -> None:
    def median(side: int, name: str) -> float:
        return statistics.median(getattr(pair[side], name) for pair in pairs)

    print(f"{len(pairs)} pairs of requests")
    for side, label in enumerate(("engine", "bare client")):
        print(f"{label:12} TTFT {median(side, 'ttft') * 1e3:8.2f} ms   TPOT {median(side, 'tpot') * 1e3:7.3f} ms")
    rate = statistics.median(ours.reported_tpot / ours.tpot for ours, _ in pairs)
    print(f"decode rate of the engine / eval_count over eval_duration of the same request: {rate:.4f}")
    for name in ("ttft", "tpot"):
        ratios = sorted(getattr(ours, name) / getattr(bare, name) for ours, bare in pairs)
        print(f"{name} of the engine / of the bare client, paired: {statistics.median(ratios):.4f}  {ratios}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 5)
