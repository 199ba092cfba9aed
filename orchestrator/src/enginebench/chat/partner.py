"""One engine in a conversation: started when it is needed, asked, started again after it died."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection
from dataclasses import dataclass

from enginebench_protocol.engine import Sampling
from enginebench_protocol.errors import EngineFailure

from enginebench.run.guard import Watchdog

from .choice import Choice
from .conversation import Conversation, Message, room_for_answer
from .detokeniser import Detokeniser
from .living_engine import Ask, EngineDied, LivingEngine, Say, spawned
from .model import SpokenModel
from .settings import Settings
from .turn import Turn


@dataclass(frozen=True)
class Listener:
    """Where an answer goes."""

    on_text: Callable[[str], None]
    on_token: Callable[[int], None] = lambda token: None
    cancelled: Callable[[], bool] = lambda: False


class Partner:
    """`start` spawns, `ready` waits until it can answer; `ask` does both where need be."""

    def __init__(
        self,
        choice: Choice,
        settings: Settings,
        watchdog: Watchdog | None,
        say: Say,
        spared: Callable[[], Collection[int]] = tuple,
        engine: LivingEngine | None = None,
    ) -> None:
        """`engine`: one that was spawned already."""
        self.choice = choice
        self.settings = settings
        self.engine = engine
        self.last: Turn | None = None
        self.pss_bytes: int | None = None
        self.device_bytes: int | None = None
        self.said: tuple[Message, ...] = ()
        self._watchdog, self._say, self._spared = watchdog, say, spared

    @property
    def is_loaded(self) -> bool:
        return self.engine is not None and self.engine.loaded is not None

    def start(self) -> None:
        """Raises UnavailableError where it cannot be installed, EngineDied where it cannot be started."""
        if self.engine is None:
            self.engine = spawned(self.choice, self.settings, self._watchdog, self._say, self._spared)

    def ready(self, model: SpokenModel, n_ctx: int) -> LivingEngine:
        """Raises EngineFailure or EngineDied where it does not load."""
        self.start()
        assert self.engine is not None
        if self.engine.loaded is None:
            try:
                path, settings = model.found.located.path, self.settings
                self.engine.load(path, n_ctx, settings.device, settings.threads, self._say, settings.shards)
            except BaseException:
                self.leave()
                raise
            finally:
                self._say("")
        return self.engine

    def conversation(self, model: SpokenModel) -> Conversation:
        return Conversation(model.tokenizer, self.settings.plain, self.said)

    def ask(self, question: str, model: SpokenModel, n_ctx: int, listener: Listener) -> Turn:
        """The answer, streamed to `listener`; it belongs to the conversation from then on, also one that was stopped.

        Raises UsageError where the context is full, EngineFailure, EngineDied (the next question starts it again).
        """
        engine, conversation = self.ready(model, n_ctx), self.conversation(model)
        prompt = conversation.ids_with(question)
        n_gen = room_for_answer(len(prompt), n_ctx, self.settings.n_gen, model.config.max_context)
        text = Detokeniser(model.tokenizer.piece)

        def on_token(token: int) -> None:
            listener.on_token(token)
            listener.on_text(text.feed(token))

        sampling = Sampling(temperature=self.settings.temperature, seed=self.settings.draw_seed())
        try:
            turn = engine.reply(
                Ask(array("i", prompt), n_gen, n_ctx, sampling, model.tokenizer.eos, on_token, listener.cancelled)
            )
        except EngineFailure:
            raise
        except EngineDied:
            self.engine = None
            raise
        except BaseException:  # half an answer may be on its way
            self.leave(grace=0.2)
            raise
        listener.on_text(text.finish())
        conversation.keep(question, turn.tokens)
        self.said, self.last = conversation.said, turn
        return turn

    def look(self) -> None:
        """Read its memory: between two answers only. Raises EngineFailure, EngineDied."""
        try:
            self.pss_bytes = self.engine.pss_bytes() if self.engine else None
            self.device_bytes = self.engine.device_bytes() if self.engine else None
        except EngineDied:
            self.engine = None
            raise

    def forget(self) -> None:
        """Begin the conversation anew."""
        self.said, self.last = (), None

    def leave(self, grace: float = 2.0) -> None:
        """`grace`: seconds that it has for ending by itself."""
        engine, self.engine = self.engine, None
        if engine is not None:
            engine.close(grace)
