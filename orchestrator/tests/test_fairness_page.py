"""docs/fairness.md: its commands exist, and what its prose says of numbers still holds for its tables."""

from __future__ import annotations

import re
import shlex

import pytest
from enginebench.cli import COMMANDS
from enginebench.cli.group import loaded
from enginebench.cli.original import is_original, spelled_out, translated
from enginebench.store.run_folder import is_run
from enginebench.workspace.discovery import ROOT, discover

PAGE = (ROOT / "docs" / "fairness.md").read_text()
ENGINES = discover()
LINES = [
    line.partition("#")[0].removeprefix("$ ").strip()
    for block in re.findall(r"^```\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
    if line.startswith("$ ") or not block.startswith("$ ")  # of a recorded terminal, what was typed
] + re.findall(r"`(uv run enginebench [^`]+)`", PAGE)


def rows(name: str) -> list[list[str]]:
    place = PAGE.split(f"<!-- {name}:")[1].split(f"<!-- end of {name}")[0]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in re.findall(r"^\|.*\|$", place, re.M)[2:]]


@pytest.mark.parametrize("line", LINES)
def test_every_command_of_the_page_exists(line: str) -> None:
    line = line.replace("just bench", "uv run enginebench run")
    words = shlex.split(line.removeprefix("uv run enginebench"))
    commands = translated(words, ENGINES) if is_original(words, interactive=True) else [words]
    for words in commands:
        known = loaded(words[0], COMMANDS[words[0]])
        known.make_context(words[0], spelled_out(words, ENGINES)[1:])


def test_the_runs_that_it_names_are_there() -> None:
    names = set(re.findall(r"results/reference/[\w-]+", PAGE))
    assert names
    assert all((ROOT / name).is_dir() for name in names)
    assert any(is_run(ROOT / name) for name in names)


def test_each_engine_has_its_two_configurations() -> None:
    assert [row[0].strip("`") for row in rows("choices")] == [i.name for i in ENGINES.values() if i.role == "engine"]


def test_some_half_is_much_faster_than_its_bytes_and_some_is_not_faster_at_all() -> None:
    """As the prose says of them."""
    gains = [(float(fewer.rstrip("x")), float(faster.rstrip("x"))) for _, fewer, faster in rows("halves")]
    assert any(faster > 1.5 * fewer for fewer, faster in gains)
    assert any(faster < 1.05 for fewer, faster in gains if fewer > 1.6)


def test_casts_take_more_than_half_of_the_profiled_step() -> None:
    profile = (ROOT / "results/reference/20261121-cpu-onnxruntime-profile/profile.txt").read_text()
    share = re.search(r"([\d.]+)% +\d+ calls +Cast", profile)
    assert share is not None
    assert float(share[1]) > 50


def test_the_published_rows_stand_still_at_half_the_bytes() -> None:
    _, optimised, baseline = rows("published")
    assert float(optimised[2]) == pytest.approx(float(baseline[2]), rel=0.01)
    assert float(optimised[3]) == pytest.approx(float(baseline[3]) / 2, rel=0.01)
