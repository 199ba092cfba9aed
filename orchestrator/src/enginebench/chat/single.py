"""One prompt, to an engine that starts meanwhile: the model is checked, the answer goes out as it comes.

An engine never sees a file before it was checked: it is sent `load` afterwards. Its tokenizer is read while it loads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from enginebench.counted import counted
from enginebench.errors import UsageError

from .choice import Choice
from .living_engine import LivingEngine, Say, Stamps
from .model import SpokenModel
from .partner import Listener, Partner
from .settings import Settings
from .turn import Turn

TEMPLATE_TOKENS = 256
"""What a chat template adds at most; that of Llama 3.2 Instruct adds 36."""
SHORT_BYTES = 16_384
"""A byte is a token at most. Of a short text the context follows from its length alone, before any tokenizer."""
STEP = 256


@dataclass(frozen=True)
class Spoken:
    """An answer and how it came about."""

    choice: Choice
    model: SpokenModel
    engine: Stamps
    stages_ns: dict[str, int]
    precision: str
    turn: Turn
    templated: bool
    pieces: list[str]
    """The text of each id by itself."""


def answer(
    engine: LivingEngine, settings: Settings, read_prompt: Callable[[], str], write: Callable[[str], None], say: Say
) -> Spoken:
    """`engine` was spawned. Raises UsageError, EngineFailure, EngineDied, and what `write` raises."""
    prompt = read_prompt()
    model = SpokenModel(settings, [engine.choice])
    model.check_readable_by(engine.choice)
    n_ctx = context(prompt, model, settings)
    partner = Partner(engine.choice, settings, None, say, engine=engine)
    partner.ready(model, n_ctx)
    assert engine.loaded is not None
    pieces: list[str] = []

    def on_token(token: int) -> None:
        pieces.append(model.tokenizer.piece(token).decode("utf-8", "replace"))

    turn = partner.ask(prompt, model, n_ctx, Listener(write, on_token))
    return Spoken(
        choice=engine.choice,
        model=model,
        engine=engine.stamps,
        stages_ns=engine.loaded.stages,
        precision=f"{engine.loaded.weight_dtype} on {engine.loaded.device}, {counted(engine.loaded.threads, 'thread')}",
        turn=turn,
        templated=partner.conversation(model).templated,
        pieces=pieces,
    )


def context(prompt: str, model: SpokenModel, settings: Settings) -> int:
    """As many positions as this prompt and its answer can need. Raises UsageError where the model has fewer."""
    if settings.n_ctx is not None:
        return model.n_ctx(settings.n_ctx)
    n_bytes = len(prompt.encode())
    n_prompt = n_bytes if n_bytes <= SHORT_BYTES else len(model.tokenizer.encode(prompt))
    needed = -(-(n_prompt + TEMPLATE_TOKENS + settings.n_gen) // STEP) * STEP
    if n_prompt + 1 > model.config.max_context:
        raise UsageError(f"the prompt has {n_prompt} tokens, {model.found.name} takes {model.config.max_context}")
    return min(needed, model.config.max_context)
