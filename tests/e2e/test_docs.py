"""Every command in the documentation is one that works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from enginebench.workspace.discovery import ROOT

from .conftest import Cli
from .documented import ELSEWHERE, Place, commands_of, documented, engine_words, enginebench_words, placed

ALL = documented()
RUN_HERE = [each.text for each in ALL if each.elsewhere is None]
OF_ENGINES = {tuple(words): text for text in RUN_HERE if (words := engine_words(text)) is not None}
OF_ENGINEBENCH = {tuple(enginebench_words(text)): text for text in RUN_HERE if engine_words(text) is None}
"""Words that are run → a command that means them; each once."""
ENDS_OTHERWISE = {"doctor": {0, 1}, "compare": {0, 1, 3}, "verify": {0, 1}, "score": {2}}
"""The machine may be noisy, two runs may differ; the engine of known speed has no logits to verify or score."""
SWEEP = 'models = ["tiny"]\nengines = ["fake:default"]\nworkloads = ["pp8+tg4"]\n'


@pytest.fixture(scope="module")
def place(cli: Cli, tmp_path_factory: pytest.TempPathFactory, home: dict[str, str]) -> Place:
    folder = tmp_path_factory.mktemp("docs")
    words = ["run", "fake", "--model", "tiny", "--preset", "smoke", "--profile", "--cold", "1", "--results"]
    for _ in range(2):
        assert cli(*words, str(folder / "runs")).returncode == 0
    (model,) = (Path(home["XDG_CACHE_HOME"]) / "enginebench" / "models" / "synthetic").glob("tiny-*.gguf")
    (folder / "sweep.toml").write_text(SWEEP)
    return Place(folder / "runs", folder / "new", model)


@pytest.mark.parametrize("words", OF_ENGINEBENCH, ids=OF_ENGINEBENCH.values())
def test_a_command_of_the_documentation_works(words: tuple[str, ...], place: Place, home: dict[str, str]) -> None:
    check([sys.executable, "-m", "enginebench", *placed(list(words), place)], words, place, home)


@pytest.mark.parametrize("words", OF_ENGINES, ids=OF_ENGINES.values())
def test_a_command_of_an_engine_alone_works(words: tuple[str, ...], place: Place, home: dict[str, str]) -> None:
    sources = {"PYTHONPATH": str(ROOT / "packages" / "engine-fake" / "src")}
    check([sys.executable, "-m", "engine_fake", *placed(list(words), place)], words, place, home | sources)


def check(command: list[str], words: tuple[str, ...], place: Place, environment: dict[str, str]) -> None:
    done = subprocess.run(
        command, cwd=place.runs.parent, env=environment, capture_output=True, text=True, timeout=120, input=""
    )
    expected = ENDS_OTHERWISE.get(words[0], {0})
    assert done.returncode in expected, f"{command}: {done.stdout[-1000:]}\n{done.stderr[-1000:]}"


def test_what_is_run_elsewhere_is_still_in_the_documentation() -> None:
    used = {each.elsewhere for each in ALL if each.elsewhere}
    assert used == set(ELSEWHERE.values())


def test_commands_are_found_in_blocks_and_nowhere_else() -> None:
    block = "```\njust bench all   # why\n$ enginebench show latest\nx = 1\n```\n"
    text = f"just no\n{block}text\n```sh\nuv run enginebench engines\n```\n"
    assert list(commands_of(text)) == ["just bench all", "enginebench show latest", "uv run enginebench engines"]
