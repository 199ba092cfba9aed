"""`--timing` of a single prompt: the stretches between the command and its first token, and every token after it."""

from __future__ import annotations

from collections.abc import Iterator

from enginebench.counted import counted
from enginebench.report.turn import (
    NO_BENCHMARK,
    Stretch,
    decoded,
    duration,
    token_list,
    where_the_time_went,
)

from .single import Spoken


def lines(spoken: Spoken, began_ns: int) -> Iterator[str]:
    """`began_ns`: when the command began."""
    found, turn = spoken.model.found, spoken.turn
    yield f"{spoken.choice.label}, {found.name} ({found.located.weights} weights), {spoken.precision}: {NO_BENCHMARK}"
    timing = turn.timing
    if timing is None:
        return
    whole, prompt = duration(timing.t_token_ns[0] - began_ns), duration(turn.ttft_ns or 0)
    yield f"first token {whole} after the command; {prompt} of it for the prompt"
    yield from where_the_time_went(stretches(spoken, began_ns), began_ns)
    yield decoded(timing)
    yield from token_list(timing, spoken.pieces)


def stretches(spoken: Spoken, began_ns: int) -> list[Stretch]:
    """In the order in which they begin; those that overlap ran side by side."""
    engine, model, turn = spoken.engine, spoken.model, spoken.turn
    assert turn.timing is not None
    stages = ", ".join(f"{name} {ns / 1e9:.3f}" for name, ns in spoken.stages_ns.items())
    first_ns, last_ns = turn.timing.t_token_ns[0], turn.timing.t_token_ns[-1]
    found = [
        Stretch("Python and the command line", began_ns, engine.spawned_ns),
        Stretch("engine: its process and imports", engine.spawned_ns, engine.hello_ns),
        Stretch("model: found, and checked by a process of its own", model.checked.begin_ns, model.checked.end_ns),
        Stretch("tokenizer, chat template", model.tokenizer_span.begin_ns, model.tokenizer_span.end_ns),
        Stretch(f"engine: load{f' ({stages})' if stages else ''}", engine.load_sent_ns, engine.loaded_ns),
        Stretch(f"prompt of {counted(turn.n_prompt, 'token')} to the first token", turn.t_sent_ns, first_ns),
        Stretch(f"{counted(len(turn.tokens) - 1, 'token')} after it", first_ns, last_ns),
    ]
    return sorted(found, key=lambda stretch: stretch.begin_ns)
