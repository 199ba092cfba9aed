"""The line editor: history that outlives the chat, completion of commands, a toolbar."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from .commands import COMMANDS


class CommandCompleter(Completer):
    """/commands, and what may follow them; nothing in an ordinary question."""

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        line = document.text_before_cursor
        if not line.startswith("/"):
            return
        name, blank, argument = line[1:].partition(" ")
        if not blank:
            yield from _beginning_with(name, COMMANDS)
        elif name in COMMANDS:
            yield from _beginning_with(argument.rpartition(" ")[2], COMMANDS[name].offers())


def _beginning_with(word: str, offers: Iterable[str]) -> Iterable[Completion]:
    return (Completion(offer, start_position=-len(word)) for offer in offers if offer.startswith(word))


def state_folder() -> Path:
    """XDG base directory specification: what should outlive a program, and is not worth a backup."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "enginebench"


def line_editor(toolbar: Callable[[], str], folder: Path | None = None) -> PromptSession[str]:
    return PromptSession(
        history=_history(folder or state_folder()),
        completer=CommandCompleter(),
        complete_while_typing=False,
        bottom_toolbar=toolbar,
        enable_open_in_editor=False,
    )


def _history(folder: Path) -> History:
    """Questions are the user's own: nobody else may read them. Where no file can be written, until the chat ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = folder / "chat-history"
        file.touch(mode=0o600)
        return FileHistory(str(file))
    except OSError:
        return InMemoryHistory()
