"""The chat as its user sees it: a question, the answer as it comes, a status line.

Nothing here computes; what an answer costs in drawing is some 20 us per token, at most ten status lines a second.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TextIO

from rich.console import Console

from enginebench.counted import counted
from enginebench.errors import BenchError
from enginebench.plain_text import for_terminal
from enginebench.report.turn import NO_BENCHMARK, NO_TEMPLATE, answer_times, meaningless, status, tokens_of

from .chat import TROUBLES, Chat
from .columns import Columns, wide_enough
from .commands import perform
from .completion import line_editor
from .keyboard import Interrupt, unseen
from .live_metrics import LiveMetrics
from .living_engine import EngineDied
from .partner import Listener, Partner
from .status_line import StatusLine
from .turn import Turn

LAST_LINES = 5
STOPPING = "stops after the next token; Ctrl-C again ends the engine"
ENDINGS = {
    "length": "(cut off after {told}: --n-gen allows more)",
    "context": "(cut off: the context of {n_ctx} tokens is full; /reset begins anew, --n-ctx allows more)",
    "cancelled": "(stopped)",
}


class Terminal:
    """Run it; it ends with the user's Ctrl-D."""

    def __init__(self, chat: Chat, out: TextIO = sys.stdout) -> None:
        self.chat = chat
        self._out = out
        self._console = Console(file=out, highlight=False)
        self._editor = line_editor(self.toolbar)

    def run(self) -> None:
        with unseen():
            self._introduce()
            self._converse()

    def toolbar(self) -> str:
        """One status for each engine."""
        return "\n".join(self._status(partner) for partner in self.chat.partners)

    def _converse(self) -> None:
        while (line := self._next_line()) is not None:
            try:
                self._take(line.strip())
            except BenchError as error:
                self._tell(str(error))
            except KeyboardInterrupt:
                self._tell("\ninterrupted: the engine was ended, the next question starts it again")

    def _introduce(self) -> None:
        settings = self.chat.settings
        labels = " and ".join(partner.choice.label for partner in self.chat.partners)
        threads = counted(settings.threads, "thread")
        self._tell(f"{labels}, {self.chat.model.found.name} on {settings.device}, {threads}")
        self._tell("/help lists the commands, Ctrl-C stops an answer, Ctrl-D ends the chat")
        self._warn()

    def _warn(self) -> None:
        """What the reader of the answers must know; said again when model or engines change."""
        if self.chat.model.synthetic:
            self._tell(meaningless(self.chat.model.found.name))
        if not self.chat.templated and not self.chat.settings.plain:
            self._tell(NO_TEMPLATE)
        if len(self.chat.partners) > 1:
            stay = "all stay in memory" if self.chat.together else "each is started for its answer: memory is short"
            self._tell(f"engines answer one after the other, so that none slows another; {stay}; {NO_BENCHMARK}")
        self._lament()

    def _next_line(self) -> str | None:
        while True:
            try:
                return self._editor.prompt("> ")
            except KeyboardInterrupt:  # a line that is thrown away
                continue
            except EOFError:
                return None

    def _take(self, line: str) -> None:
        if line.startswith("/"):
            before = (self.chat.model, self.chat.partners)
            self._tell(perform(self.chat, line))
            if before != (self.chat.model, self.chat.partners):
                self._warn()
        elif line and wide_enough(self._console, len(self.chat.partners)) and len(self.chat.partners) > 1:
            self._answer_in_columns(line)
        elif line:
            for partner in self.chat.partners:
                self._answer(partner, line)

    def _answer(self, partner: Partner, question: str) -> None:
        if len(self.chat.partners) > 1:
            self._tell(f"{partner.choice.label}:")
        with StatusLine(self._out) as line:
            turn = self._heard(partner, question, self._write, line)
        self._write("\n")
        self._tell(self._after(partner, turn) if turn else "")
        self._lament()

    def _answer_in_columns(self, question: str) -> None:
        not_drawn = StatusLine(self._out)
        with Columns(self._console, [partner.choice.label for partner in self.chat.partners]) as columns:
            for number, partner in enumerate(self.chat.partners):

                def show(text: str, column: int = number) -> None:
                    columns.add(column, for_terminal(text))

                turn = self._heard(partner, question, show, not_drawn)
                columns.foot(number, self._after(partner, turn, always=True) if turn else "no answer")
        self._lament()

    def _heard(self, partner: Partner, question: str, show: Callable[[str], None], line: StatusLine) -> Turn | None:
        """None for an engine that did not answer, which is told."""
        live = LiveMetrics()

        def on_token(token: int) -> None:
            live.token()
            line.show(self._status(partner, live))

        try:
            with Interrupt(lambda: line.show_from_signal_handler(STOPPING)) as interrupt:
                line.show(self._status(partner, live))
                return self.chat.ask(partner, question, Listener(show, on_token, lambda: interrupt.asked))
        except TROUBLES as error:
            self.chat.troubles.append((partner, error))
            return None

    def _lament(self) -> None:
        """What became of engines since this was asked last."""
        told, self.chat.troubles = self.chat.troubles, []
        for partner, error in told:
            self._tell(f"{partner.choice.label}: {error}")
            if isinstance(error, EngineDied):
                for line in error.last_lines if self.chat.settings.debug else error.last_lines[-LAST_LINES:]:
                    self._tell(f"  {line}")
                self._tell("it is gone; the next question starts it again")

    def _after(self, partner: Partner, turn: Turn, always: bool = False) -> str:
        ending = ENDINGS.get(turn.ended, "").format(told=counted(len(turn.tokens), "token"), n_ctx=turn.n_ctx)
        times = answer_times(turn.timing, turn.ttft_ns) if self.chat.timing or always else ""
        return "\n".join(part for part in (ending, times) if part)

    def _status(self, partner: Partner, live: LiveMetrics | None = None) -> str:
        turn, loaded = partner.last, partner.engine.loaded if partner.engine else None
        if live is not None:
            ttft_ns, decode_tps, tokens = live.ttft_ns, live.decode_tps, counted(live.n_tokens, "token")
        elif turn is not None:
            ttft_ns, decode_tps = turn.ttft_ns, turn.decode_tps
            tokens = tokens_of(turn.n_prompt, len(turn.tokens), turn.n_ctx)
        else:
            ttft_ns, decode_tps, tokens = None, None, ""
        return status(
            partner.choice.label,
            loaded.weight_dtype if loaded else partner.choice.precision,
            ttft_ns,
            decode_tps,
            tokens,
            partner.pss_bytes,
            partner.device_bytes,
        )

    def _write(self, text: str) -> None:
        self._out.write(for_terminal(text))
        self._out.flush()

    def _tell(self, text: str) -> None:
        if text:
            print(for_terminal(text), file=self._out, flush=True)
