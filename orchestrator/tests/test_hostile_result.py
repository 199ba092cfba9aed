"""A result.json from a stranger, with a payload in every text that the schema leaves free, in every form of output.

Whatever is shown of it is shown as text: no element, attribute or address of the page, no cell, link or formula, no
statement, and nothing that drives a terminal.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from enginebench.cli import command_line
from enginebench.store.result import _validator, dumped, read_result, write_whole
from typer.testing import CliRunner

from .large_run import large_result
from .test_report import Seen

MARK = "planted"
CASES, LAUNCHES = 4, 3
PAYLOADS = (
    f"<script>{MARK}()</script>",
    f'"><img src=x onerror={MARK}()>',
    f"</style></title><svg/onload={MARK}()>",
    f"&#60;iframe src=javascript:{MARK}()&#62;",
    f"\x1b]0;{MARK}\x07\x1b[2J\x9b31m\r\n\x00",
    f"\u202e{MARK}\u2066\u200f\u2028",
    f"a|b](javascript:{MARK}) ![x](http://{MARK}.test/x.png) `{MARK}`",
    f"'); DROP TABLE cases; --{MARK}\"; DROP TABLE cases; --",
    f'=HYPERLINK("http://{MARK}.test","x")',
    f"+{MARK}",
    f"-1+{MARK}",
    f"@SUM({MARK})",
    f"{{{{ {MARK} }}}}{{% {MARK} %}}[/red][bold]$\\frac{{{MARK}}}$",
    f"url(http://{MARK}.test/x);}}*{{background:url(//{MARK}.test)",
)
QUOTES = "'\""
BIDIRECTIONAL = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
ELEMENTS = {"script", "img", "iframe", "object", "embed", "link", "base", "form"}
ADDRESS = re.compile(r"javascript:|//|url\((?!#)")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def texts(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], str]]:
    match node:
        case dict():
            for key, value in node.items():
                yield from texts(value, (*path, key))
        case list():
            for index, value in enumerate(node):
                yield from texts(value, (*path, index))
        case str():
            yield path, node


def put(result: Any, path: tuple[Any, ...], text: str) -> None:
    for step in path[:-1]:
        result = result[step]
    result[path[-1]] = text


def hostile(honest: dict[str, Any]) -> dict[str, Any]:
    """Every text carries a payload, the same one wherever the same text stands; what the schema refuses is put back.

    In front of the text, which is where a formula begins, or behind it.
    """
    bad = json.loads(json.dumps(honest))
    payload_of: dict[str, str] = {}
    for path, text in texts(honest):
        number = len(payload_of)
        payload = PAYLOADS[number % len(PAYLOADS)] + QUOTES
        put(bad, path, payload_of.setdefault(text, text + payload if number % 4 == 3 else payload + text))
    originals = dict(texts(honest))
    while errors := list(_validator().iter_errors(bad)):
        restored = {path for error in errors for path in _within(error) if path in originals}
        assert restored, errors[0].message[:300]
        for path in restored:
            put(bad, path, originals[path])
    return bad


def _within(error: Any) -> Iterator[tuple[Any, ...]]:
    """The texts that an error may be about."""
    yield tuple(error.absolute_path)
    for inner in error.context or ():
        yield from _within(inner)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file."""
    bad = hostile(large_result(CASES, LAUNCHES))
    assert sum(MARK in text for _, text in texts(bad)) > 100
    path = tmp_path_factory.mktemp("hostile") / "result.json"
    write_whole(path, dumped(bad))
    assert read_result(path)
    return path


Say = Callable[..., str]


@pytest.fixture
def say(run: Path) -> Say:
    """What a command prints of the file."""

    def call(command: str, *words: str) -> str:
        done = CliRunner().invoke(command_line(), [command, str(run), *words], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    return call


def drives_a_terminal(text: str) -> str:
    """The characters of `text` that must not reach one."""
    bad = {c for c in text if unicodedata.category(c) in ("Cc", "Zl", "Zp") and c not in "\n\t"}
    return "".join(
        sorted(bad | (set(text) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f")))
    )


FORMS = ["table", "md", "json", "jsonl", "csv", "sql", "benchstat"]


@pytest.mark.parametrize(
    "words", [*([form] for form in FORMS), *([form, "--timing"] for form in FORMS[3:6])], ids="".join
)
def test_nothing_drives_a_terminal(say: Say, words: list[str]) -> None:
    text = say("show", "-o", *words)
    assert MARK in text, "it is shown"
    assert not drives_a_terminal(text)


def test_the_page_has_no_element_attribute_or_address_of_a_payload(run: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    done = CliRunner().invoke(command_line(), ["report", str(run), "-o", str(page)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    seen = Seen(page.read_text())
    assert MARK in seen.text, "it is shown"
    assert {tag for tag, _ in seen.tags}.isdisjoint(
        {"script", "img", "iframe", "object", "embed", "link", "base", "form"}
    )
    assert not drives_a_terminal(page.read_text())
    for tag, attributes in seen.tags:
        for name, value in attributes.items():
            assert not name.startswith("on") and name not in ("src", "srcdoc", "action", "formaction"), (tag, name)
            assert MARK not in (value or "") or name == "aria-label", (tag, name, value)
            assert not ADDRESS.search(value or "") or name in ("aria-label", "xmlns"), (tag, name)
    metas = [attributes for tag, attributes in seen.tags if tag == "meta"]
    assert [a["content"] for a in metas if a.get("http-equiv") == "Content-Security-Policy"] == [POLICY]
    assert page.read_text().count("<style>") == 1


def test_plots_as_files_are_drawings_with_text(run: Path, tmp_path: Path) -> None:
    words = ["report", str(run), "-o", str(tmp_path / "r.html"), "--plots", str(tmp_path / "plots")]
    done = CliRunner().invoke(command_line(), words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    drawings = list((tmp_path / "plots").iterdir())
    assert drawings and all(re.fullmatch(r"[a-z0-9-]+\.svg", file.name) for file in drawings), "no name of a payload"
    for file in drawings:
        tags = {tag for tag, _ in Seen(file.read_text()).tags}
        assert tags.isdisjoint({"script", "image", "img", "iframe", "foreignobject", "a", "animate", "set"})


def borders(text: str) -> set[int]:
    """How many borders of cells the rows of Markdown tables have."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return {len(re.findall(r"(?<!\\)\|", line)) for line in rows}


LINK_OR_TAG = r"(?<!\\)\][(\[:]|<"


def test_markdown_has_no_cell_link_picture_or_tag_of_a_payload(say: Say) -> None:
    text = say("show", "-o", "md")
    assert len(borders(text)) == 1, "a payload made a cell"
    assert not re.search(LINK_OR_TAG, text)


def test_the_tables_of_a_cold_start_stay_text(say: Say) -> None:
    text = say("show", "--cold-start")
    assert MARK in text, "it is shown"
    assert not drives_a_terminal(text)
    assert not re.search(LINK_OR_TAG, text)
    assert len(borders(text)) == 2, "what it is made of, and time to N tokens: a payload made a cell"


def test_a_spreadsheet_finds_no_formula_and_no_column_more(say: Say) -> None:
    for timing in ([], ["--timing"]):
        rows = list(csv.reader(io.StringIO(say("show", "-o", "csv", *timing))))
        assert len({len(row) for row in rows}) == 1
        cells = [cell for row in rows for cell in row if not _is_number(cell)]
        assert any(MARK in cell for cell in cells)
        assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def test_the_statements_of_sql_are_ours(say: Say) -> None:
    database = sqlite3.connect(":memory:")
    database.executescript(say("show", "-o", "sql"))
    tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master")]
    assert tables == ["cases"]
    (found,) = database.execute("SELECT count(*) FROM cases").fetchone()
    assert found == CASES


def test_json_says_the_same_in_harmless_letters(say: Say, run: Path) -> None:
    assert json.loads(say("show", "-o", "json")) == json.loads(run.read_text())


def test_lines_of_benchstat_are_ours(say: Say) -> None:
    for line in say("show", "-o", "benchstat").splitlines():
        assert re.match(r"Unit |BenchmarkEngine/|#|(?:run|cpu|machine|device|threads): |$", line), line


def test_a_comparison_of_two_such_runs_stays_text(run: Path) -> None:
    for form in ("table", "md", "json", "benchstat"):
        done = CliRunner().invoke(command_line(), ["compare", str(run), str(run), "-o", form, "--force"])
        assert not drives_a_terminal(done.output), form
