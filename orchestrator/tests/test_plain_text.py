"""Text of a model, an engine or a file on its way to a terminal, a table, a spreadsheet."""

from __future__ import annotations

import json
from io import StringIO

import pytest
from enginebench.cli.basics import say
from enginebench.plain_text import BIDIRECTIONAL, for_terminal, harmless_json, printable
from enginebench.report.formats import Sheet, markdown, to_csv
from enginebench.run.progress import ProgressBar
from rich.console import Console

DRIVING = [
    "\x1b[2J",
    "\x1b]0;title\x07",
    "\x9b31m",
    "\r",
    "\x08",
    "\x00",
    "\x7f",
    "\u2028",
    "\u202eabc",
    "\u2066",
    "\ud800",
]


@pytest.mark.parametrize("text", DRIVING, ids=ascii)
def test_what_drives_a_terminal_or_turns_a_line_around_is_replaced(text: str) -> None:
    for cleaned in (for_terminal(f"a{text}b"), printable(f"a{text}b")):
        assert cleaned.startswith("a")
        assert cleaned.endswith("b")
        assert not set(cleaned) & (set(DRIVING) | BIDIRECTIONAL | set("\x1b\x07\x9b"))
        cleaned.encode()


def test_words_of_all_languages_stay_as_they_are() -> None:
    text = "Grüße\tשלום\nнаука 👩\u200d👧 日本"
    assert for_terminal(text) == text


@pytest.mark.parametrize("text", DRIVING, ids=ascii)
def test_json_says_the_same_in_harmless_letters(text: str) -> None:
    written = harmless_json(json.dumps([text, "é"], ensure_ascii=False))
    assert json.loads(written) == [text, "é"]
    assert for_terminal(written) == written
    assert "é" in written


def test_an_engine_can_neither_mark_up_nor_end_a_progress_bar() -> None:
    """An end tag that nothing began is an error of rich: it would have ended the run."""
    screen = StringIO()
    with ProgressBar(Console(file=screen, force_terminal=True, width=120)) as bar:
        bar.begin("torch [/bold]", 0, 1)
        bar.say("loading: [/red][link=http://x]read\x1b]0;title\x07 [bold]")
        bar.note("torch:half: exit: [/red] \x1b[2Jgone")
    assert "[/red]" in screen.getvalue()
    assert "\x1b]0" not in screen.getvalue()
    assert "\x1b[2J" not in screen.getvalue()


def test_what_is_said_cannot_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("engine-x: \x1b]0;title\x07 died")
    assert capsys.readouterr().err == "engine-x: \ufffd]0;title\ufffd died\n"


def test_a_spreadsheet_computes_nothing_that_is_text() -> None:
    sheet = Sheet("s", ("=head", "n"), [("=1+1", -3), ("+x", 2.5), ("-x", None), ("@x", True), ("\tx", 1), ("a=b", 1)])
    assert to_csv(sheet).splitlines() == ["'=head,n", "'=1+1,-3", "'+x,2.5", "'-x,", "'@x,true", "'\tx,1", "a=b,1"]


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        ("[x](javascript:y)", "[x\\](javascript:y)"),
        ("![x](http://y)", "![x\\](http://y)"),
        ("[x][y]", "[x\\][y]"),
        ("[x]: http://y", "[x\\]: http://y"),
        ("a|b\nc", "a\\|b?c"),
        ("<b>", "&lt;b>"),
        ("1.5 [1.2, 1.8]", "1.5 [1.2, 1.8]"),
    ],
)
def test_a_cell_of_markdown_is_text(cell: str, shown: str) -> None:
    assert markdown(Sheet("s", ("x",), [(cell,)])).splitlines()[-1] == f"| {shown} |"
