"""The CI example is not prose: every command in it is one that this version understands."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pytest
import typer
import yaml
from enginebench.cli import COMMANDS
from enginebench.cli.group import loaded
from enginebench.errors import UsageError
from enginebench.workspace.discovery import ROOT

MISUSE = typer.BadParameter.__base__
"""What Typer raises for any misuse; it has no public name of its own."""
NOT_UNDERSTOOD = (MISUSE, UsageError)
"""The latter: a value that is none of those an option takes."""
EXAMPLE = ROOT / "docs" / "ci-example.yml"


def commands(text: str) -> Iterator[list[str]]:
    """The words after `enginebench` of every line of every step, up to a pipe or a redirection."""
    for job in yaml.safe_load(text)["jobs"].values():
        for step in job["steps"]:
            for line in step.get("run", "").splitlines():
                lexer = shlex.shlex(line, posix=True, punctuation_chars="|>&;")
                lexer.whitespace_split = True
                words = list(lexer)
                if "enginebench" in words:
                    words = words[words.index("enginebench") + 1 :]
                    end = next((i for i, word in enumerate(words) if word[0] in "|>&;"), len(words))
                    yield words[:end]


def understand(words: list[str]) -> None:
    """Parse as the command line would; runs nothing. Raises NOT_UNDERSTOOD."""
    loaded(words[0], COMMANDS[words[0]]).make_context(words[0], words[1:])


EXAMPLES = list(commands(EXAMPLE.read_text()))


def test_the_example_runs_compares_and_follows() -> None:
    assert [words[0] for words in EXAMPLES] == ["doctor", "run", "run", "compare", "history", "query", "compare"]


@pytest.mark.parametrize("words", EXAMPLES, ids=lambda words: words[0])
def test_every_command_of_the_example_is_understood(words: list[str]) -> None:
    understand(words)


@pytest.mark.parametrize("line", ["compare a b --fail-on-regressions 2%", "compare a", "history x -o xml", "query a b"])
def test_a_command_that_does_not_exist_is_not_understood(line: str) -> None:
    example = f"jobs: {{a: {{steps: [{{run: uv run enginebench {line} > out}}]}}}}"
    (words,) = commands(example)
    with pytest.raises(NOT_UNDERSTOOD):
        understand(words)
