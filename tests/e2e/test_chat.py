"""`enginebench chat` on a terminal, with an engine that repeats what it is told."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from enginebench.chat.chat import Chat
from enginebench.chat.partner import Listener
from enginebench.chat.settings import Settings

from .terminal import Terminal

READY = r"^>$"


@pytest.fixture
def chat(home: dict[str, str], tmp_path: Path) -> Callable[..., Terminal]:
    """chat(*arguments, columns=100): started, its line editor ready."""

    def start(*arguments: str, columns: int = 100) -> Terminal:
        command = [sys.executable, "-m", "enginebench", "chat", *arguments, "--model", "tiny", "--temperature", "0"]
        environment = {**home, "XDG_STATE_HOME": str(tmp_path)}
        del environment["COLUMNS"]  # the terminal knows
        environment["LINES"] = "24"  # of another terminal
        terminal = Terminal(command, environment, columns=columns)
        terminal.expect(READY)
        return terminal

    return start


def say(terminal: Terminal, line: str, expected: str) -> None:
    """Type a line; what is expected comes after it, and then the editor is ready again."""
    terminal.send(f"{line}\r")
    terminal.expect(rf"^> {line}[\s\S]*{expected}[\s\S]*{READY}")


def test_a_conversation_from_question_to_end(chat: Callable[..., Terminal], tmp_path: Path) -> None:
    with chat("fake:echo", "--timing") as terminal:
        terminal.expect("tiny has synthetic weights: the text means nothing")
        say(terminal, "Häppy 🙂 question", r"^user\n\nHäppy 🙂 question\nfirst token after")
        terminal.expect(r"fake:echo \| none \| TTFT .* ms \| .* tok/s \| \d+ \+ \d+ of 4096 tokens \| 0\.\d\d GB")
        n_first = int(terminal.expect(r"(\d+) \+ \d+ of 4096")[1])
        say(terminal, "more", "user")
        assert int(terminal.expect(r"(\d+) \+ \d+ of 4096")[1]) > 2 * n_first  # both questions and the answer
        say(terminal, "/reset", "forgotten")
        say(terminal, "again", r"^user\n\nagain\n")
        say(terminal, "/engin", "did you mean '/engine'")
        say(terminal, "/engine faek", "did you mean 'fake'")
        say(terminal, "/engine fake:crash", "now fake:crash")
        say(terminal, "boom", r"killed by signal 11 during reply\n  engine-fake: about to crash\nit is gone")
        say(terminal, "/engine fake:echo", "now fake:echo")
        say(terminal, "/model tinyy", "did you mean 'tiny'")
        say(terminal, "still here", r"^user\n\nagain\n")  # what was said stayed; what got no answer did not
        terminal.send("\x04")
        assert terminal.end() == 0
    assert "+still here" in (tmp_path / "enginebench" / "chat-history").read_text()


def test_ctrl_c_stops_an_answer_and_the_chat_goes_on(chat: Callable[..., Terminal]) -> None:
    with chat("fake:slow-echo") as terminal:
        terminal.send("one two three four five six seven eight nine ten eleven twelve\r")
        terminal.expect(r"^one t")
        assert "fake:slow-echo | none | TTFT" in terminal.text  # the status line, while the answer comes
        terminal.send("\x03")
        terminal.expect(rf"^\(stopped\)\n{READY}")
        assert "twelve" not in terminal.text.partition("user")[2]
        terminal.send("\x03thrown away\x03")
        say(terminal, "/reset", "forgotten")
        say(terminal, "hi", r"^user\n\nhi\n")
        terminal.send("\x04")
        assert terminal.end() == 0


def test_an_engine_that_hangs_is_ended_by_a_second_ctrl_c(chat: Callable[..., Terminal]) -> None:
    with chat("fake:hang") as terminal:
        terminal.send("hi\r")
        terminal.expect(r"0 tokens")
        terminal.send("\x03")
        terminal.expect("stops after the next token; Ctrl-C again ends the engine")
        terminal.send("\x03")
        terminal.expect(rf"the engine was ended[\s\S]*{READY}")
        say(terminal, "/engine fake:echo", "now fake:echo")
        say(terminal, "hi again", r"^user\n\nhi again\n")
        terminal.send("\x04")
        assert terminal.end() == 0


def test_a_full_context_says_what_to_do(chat: Callable[..., Terminal]) -> None:
    with chat("fake:echo", "--n-ctx", "48") as terminal:
        say(terminal, "hello", r"^user\n\nhello\n")
        say(
            terminal,
            "a question that is longer than what is left",
            r"the context is full: .* Write /reset [\s\S]* --n-ctx 96",
        )
        say(terminal, "/reset", "forgotten")
        say(terminal, "hello", r"^user\n\nhello\n")


def test_two_engines_answer_side_by_side_and_one_may_die(chat: Callable[..., Terminal]) -> None:
    with chat("--compare", "fake:echo", "fake:crash", columns=120) as terminal:
        terminal.expect(
            "one after the other, so that none slows another; all stay in memory; one request, no benchmark"
        )
        say(terminal, "hello", r"┃ fake:echo +┃ fake:crash +┃[\s\S]*│ hello +│ +│[\s\S]*│ no answer +│")
        terminal.expect(r"fake:crash: killed by signal 11")
        say(terminal, "once more", r"│ no answer +│")
        terminal.send("\x04")
        assert terminal.end() == 0


def test_on_a_narrow_terminal_answers_stand_one_below_the_other(chat: Callable[..., Terminal]) -> None:
    with chat("fake:echo", "fake:slow-echo", columns=70) as terminal:
        say(terminal, "hello", r"^fake:echo:\nuser\n\nhello\nfake:slow-echo:\nuser\n\nhello\n")


def test_an_interpreter_that_cannot_be_started_is_the_users_to_mend(home: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "python").touch(mode=0o600)
    words = ["chat", "fake:echo", "--model", "tiny", "--python", f"engine-fake={tmp_path / 'python'}"]
    with Terminal([sys.executable, "-m", "enginebench", *words], home) as terminal:
        terminal.expect("enginebench: fake:echo: .*Permission denied")
        assert terminal.end() == 1


@pytest.mark.parametrize("free_bytes", [10**13, 0])
def test_where_memory_is_short_only_one_engine_lives_at_a_time(
    home: dict[str, str], monkeypatch: pytest.MonkeyPatch, free_bytes: int
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", home["XDG_CACHE_HOME"])
    monkeypatch.setattr("enginebench.chat.chat.free_bytes", lambda device: free_bytes)
    settings = Settings(model="tiny", weights="auto", device="cpu", threads=1, temperature=0.0)
    chat, shown = Chat(settings, ["fake:echo", "fake:default"], lambda text: None), list[str]()
    try:
        chat.open()
        assert chat.together is bool(free_bytes)
        living = [sum(partner.is_loaded for partner in chat.partners)]
        for partner in chat.partners:
            chat.ask(partner, "hello", Listener(shown.append))
            living.append(sum(other.is_loaded for other in chat.partners))
        assert living == ([2, 2, 2] if free_bytes else [0, 0, 0])
        assert "".join(shown).startswith("user\n\nhello")
        assert all(partner.pss_bytes for partner in chat.partners)
    finally:
        chat.close()
