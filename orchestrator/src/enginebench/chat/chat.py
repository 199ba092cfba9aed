"""The state of a chat: its model, its engines, what was said. Knows no terminal.

One engine answers, or several one after the other: never two at once, so that none slows the other down. Several
stay alive between questions where memory allows it; else each is started for its answer and ended after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from enginebench_protocol.errors import EngineFailure

from enginebench.errors import UnavailableError, UsageError
from enginebench.run.guard import Watchdog
from enginebench.run.limits import Ladder
from enginebench.run.process import become_subreaper, sweep_descendants

from .choice import Choice, choose
from .living_engine import EngineDied, Say
from .model import SpokenModel
from .partner import Listener, Partner
from .room import fit_together, free_bytes
from .settings import Settings
from .turn import Turn

TROUBLES = (EngineFailure, EngineDied, UnavailableError)
"""What may become of one engine; the chat goes on."""


class Chat:
    """Open it, ask, close it, whatever happens."""

    def __init__(self, settings: Settings, names: Sequence[str], say: Say) -> None:
        """`names`: ENGINE or ENGINE:CONFIGURATION; none: one that is installed. Raises UsageError."""
        self.settings = settings
        self.timing = False
        self.together = True
        self.troubles: list[tuple[Partner, Exception]] = []
        """Partners that could not load or answer, and why, until that was told; each tries again when it is asked."""
        self._say = say
        self._choices = _chosen(names, settings.device)
        become_subreaper()
        self._watchdog = Watchdog()
        self.partners: list[Partner] = []

    def open(self) -> None:
        """The first engine starts while the model is checked. Raises UsageError, UnavailableError."""
        self.partners = [self._partner(choice) for choice in self._choices]
        with suppress(EngineDied):  # it is tried again when it is to answer, and that is told
            self.partners[0].start()
        self.model = self._checked_model(self.settings, self._choices)
        self._seat()

    def close(self) -> None:
        for partner in self.partners:
            partner.leave()
        sweep_descendants(keep={self._watchdog.pid}, seconds=Ladder().sweep)
        self._watchdog.close()

    @property
    def n_ctx(self) -> int:
        return self.model.n_ctx(self.settings.n_ctx)

    @property
    def templated(self) -> bool:
        return self.partners[0].conversation(self.model).templated

    def ask(self, partner: Partner, question: str, listener: Listener) -> Turn:
        """The answer of one of the partners; its memory is read afterwards. Raises as Partner.ask does."""
        try:
            turn = partner.ask(question, self.model, self.n_ctx, listener)
            partner.look()
            return turn
        finally:
            if not self.together:
                partner.leave()

    def use_engines(self, names: Sequence[str]) -> None:
        """What was said stays. Nothing changes where a name is wrong or a format is not read."""
        choices = _chosen(names, self.settings.device)
        for choice in choices:
            self.model.check_readable_by(choice)
        self._replace(choices)

    def use_model(self, name: str) -> None:
        """What was said stays, and is told to the new model."""
        settings = replace(self.settings, model=name)
        self.model = self._checked_model(settings, self._choices)
        self.settings = settings
        self._replace(self._choices)

    def change(self, settings: Settings) -> None:
        """Temperature, seed, length: from the next answer on."""
        self.settings = settings
        for partner in self.partners:
            partner.settings = settings

    def forget(self) -> None:
        for partner in self.partners:
            partner.forget()

    def _replace(self, choices: Sequence[Choice]) -> None:
        said = self.partners[0].said
        for partner in self.partners:
            partner.leave()
        self._choices = tuple(choices)
        self.partners = [self._partner(choice) for choice in choices]
        for partner in self.partners:
            partner.said = said
        self._seat()

    def _seat(self) -> None:
        """Load them now, if they can all stay."""
        checkpoint = self.model.found.checkpoint
        self.together = len(self._choices) == 1 or fit_together(
            self._choices, self.model.config, checkpoint.file_bytes, self.n_ctx, free_bytes(self.settings.device)
        )
        for partner in self.partners if self.together else ():
            try:
                partner.ready(self.model, self.n_ctx)
                partner.look()
            except TROUBLES as error:
                self.troubles.append((partner, error))

    def _partner(self, choice: Choice) -> Partner:
        return Partner(choice, self.settings, self._watchdog, self._say, self._living)

    def _living(self) -> list[int]:
        return [partner.engine.pid for partner in self.partners if partner.engine is not None]

    def _checked_model(self, settings: Settings, choices: Sequence[Choice]) -> SpokenModel:
        model = SpokenModel(settings, choices)
        for choice in choices:
            model.check_readable_by(choice)
        model.n_ctx(settings.n_ctx)
        return model


def _chosen(names: Sequence[str], device: str) -> tuple[Choice, ...]:
    """Raises UsageError for a name that does not exist, or that is there twice."""
    choices = tuple(choose(name, device) for name in (names or (None,)))
    labels = [choice.label for choice in choices]
    if len(set(labels)) < len(labels):
        raise UsageError(f"{' '.join(labels)}: name each engine once")
    return choices
