"""The pieces of the chat's terminal, on a clock and a screen of their own; the whole is in tests/e2e/test_chat.py."""

from __future__ import annotations

import io
import os
import signal
import stat
from pathlib import Path
from typing import Any, cast

import pytest
from enginebench.chat.beginning import process_began_ns
from enginebench.chat.commands import perform
from enginebench.chat.completion import CommandCompleter, line_editor
from enginebench.chat.keyboard import Interrupt
from enginebench.chat.live_metrics import LiveMetrics
from enginebench.chat.settings import Settings
from enginebench.chat.status_line import StatusLine
from enginebench.errors import UsageError
from enginebench.report.turn import answer_times, status, token_list
from enginebench_protocol.timing import RequestTiming
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

MS = 1_000_000


class Talk:
    """What commands need of a chat, without an engine."""

    def __init__(self) -> None:
        self.settings = Settings(model="tiny", weights="auto", device="cpu", threads=1)
        self.timing = False
        self.forgotten = 0

    def change(self, settings: Settings) -> None:
        self.settings = settings

    def forget(self) -> None:
        self.forgotten += 1


def said(talk: Talk, line: str) -> str:
    return perform(cast("Any", talk), line)


def test_commands_change_what_the_next_answer_is_drawn_with() -> None:
    talk = Talk()
    assert said(talk, "/temperature 0") == "temperature 0: always the likeliest token"
    assert said(talk, "/seed 7") == "seed 7"
    assert (talk.settings.temperature, talk.settings.seed) == (0.0, 7)
    assert said(talk, "/seed off") == "another seed for each answer"
    assert said(talk, "/timing") == "times after each answer"
    assert said(talk, "/reset").startswith("forgotten")
    assert (talk.settings.seed, talk.timing, talk.forgotten) == (None, True, 1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/temprature 1", "unknown command '/temprature': did you mean '/temperature'"),
        ("/temperature hot", "write a number from 0 to 10"),
        ("/temperature nan", "write a number from 0 to 10"),
        ("/temperature 11", "write a number from 0 to 10"),
        ("/seed -1", "write a whole number"),
        ("/seed 1.5", "write a whole number"),
        ("/timing maybe", "write on or off"),
    ],
)
def test_a_wrong_command_says_what_is_right(line: str, message: str) -> None:
    talk = Talk()
    before = talk.settings
    with pytest.raises(UsageError, match=message):
        said(talk, line)
    assert talk.settings == before


def completed(text: str) -> list[str]:
    document = Document(text)
    return [c.text for c in CommandCompleter().get_completions(document, CompleteEvent())]


def test_commands_and_what_follows_them_are_completed() -> None:
    assert completed("/te") == ["temperature"]
    assert completed("/timing o") == ["on", "off"]
    assert completed("/model ti") == ["tiny"]
    assert all(offer.startswith("t") for offer in completed("/engine fake:echo t"))
    assert completed("temp") == completed("/nonsense x") == []


def test_questions_are_kept_where_nobody_else_reads_them(tmp_path: Path) -> None:
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        keys.send_text("what?\r")
        assert line_editor(lambda: "", tmp_path / "state").prompt("> ") == "what?"
    history = tmp_path / "state" / "chat-history"
    assert "+what?" in history.read_text()
    assert stat.S_IMODE(history.stat().st_mode) == 0o600


def test_without_a_place_for_the_history_the_chat_goes_on(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        keys.send_text("what?\r")
        assert line_editor(lambda: "", tmp_path / "file" / "state").prompt("> ") == "what?"


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_status_line_keeps_to_the_last_row_and_gives_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen()
    with StatusLine(screen, lambda: os.terminal_size((10, 24))) as line:
        line.show("0123456789 too long", at_once=True)
        line.show("too soon")
    drawn = screen.getvalue()
    assert "\x1b[1;23r" in drawn
    assert "\x1b[24;1H\x1b[2K\x1b[7m0123456789\x1b[0m" in drawn
    assert "too" not in drawn
    assert drawn.endswith("\x1b[r\x1b8")


def test_there_is_no_status_line_without_a_terminal() -> None:
    out = io.StringIO()
    with StatusLine(out, lambda: os.terminal_size((80, 24))) as line:
        line.show("status", at_once=True)
    assert out.getvalue() == ""


def test_the_first_ctrl_c_asks_and_the_second_does_not_wait() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Interrupt() as interrupt:
        assert not interrupt.asked
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.asked
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before


def test_live_metrics_count_from_the_question() -> None:
    clock = iter([0, 100 * MS, 150 * MS, 200 * MS])
    live = LiveMetrics(lambda: next(clock))
    assert (live.ttft_ns, live.decode_tps) == (None, None)
    live.token()
    assert (live.ttft_ns, live.decode_tps) == (100 * MS, None)
    live.token()
    live.token()
    assert (live.n_tokens, live.decode_tps) == (3, 20.0)


def test_a_status_leaves_out_what_is_not_known() -> None:
    assert status("a:b", "float16", None, None, "", None, None) == "a:b | float16"
    full = status("a:b", "float16", 251 * MS, 12.34, "4 tokens", 2_500_000_000, 1_000_000_000)
    assert full == "a:b | float16 | TTFT 251 ms | 12.3 tok/s | 4 tokens | 2.50 GB | GPU 1.00 GB"


def timing(*gaps_ms: int) -> RequestTiming:
    from array import array

    times, now = array("q"), 0
    for gap in gaps_ms:
        now += gap * MS
        times.append(now)
    return RequestTiming(10, 0, times)


def test_times_of_an_answer_are_of_its_stamps() -> None:
    line = answer_times(timing(100, 10, 10, 40), 101 * MS)
    assert line.startswith("first token after 101 ms (100.0 tok/s prefill); 3 tokens after the first: 50.00 tok/s")
    assert line.endswith("least 10.0 ms, median 10.0 ms, most 40.0 ms per token")
    assert "nothing was decoded" in answer_times(timing(100), 100 * MS)
    assert answer_times(None, None) == "stopped before its first token"


def test_every_token_of_a_short_answer_is_listed_and_the_slowest_of_a_long_one() -> None:
    short = list(token_list(timing(100, 10, 20), ["a", "b", "\n"]))
    assert short[1:] == ["       1   100.00  'a'", "       2    10.00  'b'", "       3    20.00  '\\n'"]
    long = list(token_list(timing(100, *range(1, 61)), ["x"] * 61))
    assert long[0] == "the 10 tokens that took longest, of 61"
    assert [int(line.split()[0]) for line in long[2:]] == list(range(52, 62))


def test_when_this_process_began_is_told_in_the_clock_of_the_stamps(tmp_path: Path) -> None:
    import time

    assert 0 < time.perf_counter_ns() - process_began_ns() < 3600 * 10**9
    ticks = os.sysconf("SC_CLK_TCK")
    (tmp_path / "stat").write_text("1 (a ) b) S " + " ".join(["0"] * 18) + f" {5 * ticks} 0")
    offset = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.perf_counter_ns()
    assert process_began_ns(tmp_path / "stat") == pytest.approx(5 * 10**9 - offset, abs=10**6)
