"""How the speed of one answer is shown: a status line, and where the time of a single prompt went.

Of one request on a machine that does other things too: never a benchmark, and it says so.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from enginebench_protocol.timing import RequestTiming

from enginebench.counted import counted

NO_BENCHMARK = "one request, no benchmark"
NO_TEMPLATE = "the model has no chat template: the prompt is the plain text of what was said"
LISTED_TOKENS = 40
SLOWEST = 10


@dataclass(frozen=True)
class Stretch:
    """Something that took time, on the clock of time.perf_counter_ns."""

    what: str
    begin_ns: int
    end_ns: int


def meaningless(model: str) -> str:
    return f"{model} has synthetic weights: the text means nothing, only its speed does"


def status(
    label: str,
    precision: str,
    ttft_ns: int | None,
    decode_tps: float | None,
    tokens: str,
    pss_bytes: int | None,
    device_bytes: int | None,
) -> str:
    """What is not known is left out."""
    parts = [label, precision]
    parts += [f"TTFT {duration(ttft_ns)}"] if ttft_ns is not None else []
    parts += [f"{decode_tps:.1f} tok/s"] if decode_tps is not None else []
    parts += [tokens] if tokens else []
    parts += [gigabytes(pss_bytes)] if pss_bytes is not None else []
    parts += [f"GPU {gigabytes(device_bytes)}"] if device_bytes is not None else []
    return " | ".join(parts)


def tokens_of(n_prompt: int, n_gen: int, n_ctx: int) -> str:
    return f"{n_prompt} + {n_gen} of {n_ctx} tokens"


def gigabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2f} GB"


def answer_times(timing: RequestTiming | None, ttft_ns: int | None) -> str:
    """Of one answer, in one line."""
    if timing is None or ttft_ns is None:
        return "stopped before its first token"
    return f"first token after {duration(ttft_ns)} ({timing.prefill_tps:.1f} tok/s prefill); {decoded(timing)}"


def duration(ns: float) -> str:
    if ns >= 10e9:
        return f"{ns / 1e9:.1f} s"
    return f"{ns / 1e6:.0f} ms" if ns >= 100e6 else f"{ns / 1e6:.1f} ms"


def where_the_time_went(stretches: Sequence[Stretch], began_ns: int) -> Iterator[str]:
    """Seconds since the command began; stretches may overlap."""
    yield "    from       to     took  s"
    for stretch in stretches:
        begin, end = ((at - began_ns) / 1e9 for at in (stretch.begin_ns, stretch.end_ns))
        yield f"{begin:8.3f} {end:8.3f} {end - begin:8.3f}  {stretch.what}"


def decoded(timing: RequestTiming) -> str:
    """Of the tokens after the first, which belongs to the prefill."""
    gaps = timing.itl_ns
    if not gaps or timing.decode_tps is None:
        return "one token: nothing was decoded after it"
    spread = f"least {duration(min(gaps))}, median {duration(statistics.median(gaps))}"
    rate = f"{timing.decode_tps:.2f} tok/s"
    return f"{counted(len(gaps), 'token')} after the first: {rate}; {spread}, most {duration(max(gaps))} per token"


def token_list(timing: RequestTiming, pieces: Sequence[str]) -> Iterator[str]:
    """All tokens of a short answer; of a longer one those that took longest, in their order."""
    took = [timing.ttft_ns, *timing.itl_ns]
    listed = range(len(took))
    if len(took) > LISTED_TOKENS:
        listed = sorted(sorted(listed[1:], key=lambda i: took[i], reverse=True)[:SLOWEST])  # type: ignore[assignment]
        yield f"the {SLOWEST} tokens that took longest, of {len(took)}"
    yield "   token       ms  text"
    for index in listed:
        yield f"{index + 1:8} {took[index] / 1e6:8.2f}  {pieces[index]!r}"
