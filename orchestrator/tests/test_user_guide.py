"""The table "Coming from the original suite": each line does what it says, and none of the original's is missing."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from enginebench.cli import COMMANDS
from enginebench.cli.group import loaded
from enginebench.cli.original import is_original, spelled_out, translated
from enginebench.errors import UsageError
from enginebench.workspace.discovery import ROOT, discover
from enginebench.workspace.selection import fairest

GUIDE = ROOT / "docs" / "user-guide.md"
ENGINES = discover()
FAIR = " ".join(fairest(["all"], ENGINES))
OURS = "uv run enginebench"
ORIGINAL = """
uv sync
uv run --help
uv run
uv run -- --model llama3-8b
uv run -- --model llama3-1b --quantize int8
uv run -- --model llama3-1b --quantize nf4
uv run -- --benchmark
uv run -- --benchmark --iterations 10
uv run -- --benchmark --framework tinygrad
uv run -- --prompt "Explain quantum computing" --timing
uv run -- --benchmark --iterations 20 --timing --profile
uv run -- --benchmark --iterations 10 --quantize int8 nf4 float16
uv run -- --benchmark --model llama3-70b --shard 2 --iterations 5
uv run -- --download
uv run -- --temperature 0.7 --seed 42
uv run -- --timing --debug
uv run src/benchmark.py --model-type llama --model-path DIR
uv run src/benchmark.py --framework tinygrad pytorch tensorrt ollama --iterations 20 --shard 2 --quantize int8
uv run src/benchmark.py --framework tinygrad pytorch --fair-comparison
uv run src/benchmark.py --framework pytorch --pytorch-no-compile
uv run src/benchmark.py --framework pytorch --pytorch-no-half
uv run src/benchmark.py --framework tinygrad --model-type gpt --model-path LLAMA_DIR
uv run src/pytorch-backend.py --size 1B --benchmark --model DIR
python scripts/lint.py --all
uv run ruff check --fix
python scripts/check_performance_regression.py
just bench all
"""


@dataclass(frozen=True)
class Line:
    original: str
    today: str
    found: str


def lines(text: str) -> Iterator[Line]:
    part = text.split("## Coming from the original suite")[1].split("\n## ", maxsplit=1)[0]
    for row in re.findall(r"^\| (`.*) \|$", part, re.MULTILINE):
        cells = [cell.strip().strip("`") for cell in row.split(" |")]
        yield Line(*cells)


LINES = list(lines(GUIDE.read_text()))


def parse(words: list[str]) -> None:
    """As the command line would, running nothing. Raises what Typer raises for any misuse."""
    words = spelled_out(words, ENGINES) if words[0] == "run" else words
    command = loaded(words[0], COMMANDS[words[0]])
    with command.make_context(words[0], words[1:]) as context:
        for name in context._protected_args:
            command.commands[name].make_context(name, context.args)


def commands(found: str) -> list[str]:
    return found.replace("FAIR…", FAIR).split("; ")


def test_no_line_of_the_original_suite_is_missing() -> None:
    assert set(ORIGINAL.strip().splitlines()) <= {line.original for line in LINES}


@pytest.mark.parametrize("line", [line for line in LINES if line.found], ids=lambda line: line.original)
def test_a_line_is_the_command_that_the_table_names(line: Line) -> None:
    words = shlex.split(line.today.removeprefix(OURS))
    assert is_original(words, interactive=True)
    if not (wanted := re.search(r"ENGINE:(\w+)", line.found)):
        assert [shlex.join(command) for command in translated(words, ENGINES)] == commands(line.found)
        return
    try:
        ((command, engine, *rest),) = translated(words, ENGINES)
    except UsageError as error:  # no engine that can run here has it: each says what it has
        assert f"no {wanted[1]}" in str(error)
        return
    name, _, configuration = engine.partition(":")
    assert ENGINES[name].configurations[configuration].quantisation == wanted[1]
    assert shlex.join([command, "ENGINE:" + wanted[1], *rest]) == line.found


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.original)
def test_every_command_of_the_table_exists(line: Line) -> None:
    if line.found:
        for command in commands(line.found):
            parse(shlex.split(command))
    elif line.today.startswith("just "):
        assert re.search(rf"^{line.today.split()[1]}( \*ARGS)?:", (ROOT / "justfile").read_text(), re.MULTILINE)
    elif line.today.startswith("uv run --package"):
        package, script = shlex.split(line.today)[3:5]
        table = tomllib.loads((ROOT / "packages" / package / "pyproject.toml").read_text())
        assert script in table["project"]["scripts"]
    elif line.today.startswith(OURS + " ") and not line.today.endswith("--help"):
        parse(shlex.split(line.today.removeprefix(OURS)))
    else:
        assert line.today in ("uv sync", OURS + " --help")


def test_what_is_no_option_is_seen() -> None:
    with pytest.raises(Exception, match="--itertions"):
        parse(["run", "--itertions", "5"])
