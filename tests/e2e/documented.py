"""The commands that stand in the documentation, and how a test runs each: the same words with the engine of known
speed, the tiny model and little work in place of what would take minutes or a GPU.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from enginebench.workspace.discovery import ROOT, discover

PAGES = ("README.md", "docs/*.md", "packages/*/README.md")
GENERATED = "docs/command-line.md"
BLOCK = re.compile(r"^```(?:\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"(?:\$ )?((?:just|uv run|enginebench|pip install) [^#]*?)\s*(?:#.*)?$")

ELSEWHERE = {
    "pip install": ".ci/run does it on a bare machine",
    "just test": "it is what runs this",
    "just test-engine": "tests/run.py runs the suites of the engines with the same words",
    "just check": ".ci/run runs it before the tests",
    "just docs": "`just check` builds the same pages",
    "just fix": "it would change the sources under test",
    "just browser": "it installs a browser; orchestrator/tests/test_report_in_browser.py uses it where it is",
    "just selfbench": "half an hour; tests/test_selfbench.py",
    "just selftest": "three quarters of an hour; orchestrator/tests/test_selftest.py runs its parts",
    "just torture-files": "an hour; models/tests has the fast part",
    "just torture-life": "six minutes; tests/torture/test_life.py has the fast part",
    "just torture-wire": "a fuzzer needs time; protocol/tests has the fast part",
    "just torture-results": "minutes; orchestrator/tests/test_crash.py has the fast part",
    "just torture-orphans": "half an hour; tests/faults has the fast part",
    "just torture-launches": "an hour; tests/faults has the fast part",
    "just torture-strangers": "minutes; the fast part is in the tests of what it throws things at",
    "just torture": "four minutes; tests/faults has the fast part",
    "just soak": "as long as it is told; tests/faults has the fast part",
    "uv run enginebench run --resume": "tests/e2e/test_interrupts.py, after runs that were ended",
    "just new-engine": "orchestrator/tests/test_new_engine.py runs it in a workspace of its own",
    "just conform": "tests/conformance runs it against the engine of known speed and against faulty ones",
    "uv run enginebench --install-completion": "it writes into a shell; test_completion.py asks what it installs",
    "just chat": "tests/e2e/test_chat.py, on a terminal of its own",
    "uv run enginebench models pull": "models/tests/test_pull.py, from a hub on this machine",
    "uv run enginebench models remove": "orchestrator/tests/test_models_command.py, with a cache of its own",
    "enginebench conform": "tests/conformance runs it against the engine of known speed and against faulty ones",
}
"""Beginning of a command → who runs it, where this test does not."""


@dataclass(frozen=True)
class Documented:
    """One command line and the page that it stands in."""

    text: str
    page: str

    @property
    def elsewhere(self) -> str | None:
        return next((why for start, why in ELSEWHERE.items() if f"{self.text} ".startswith(f"{start} ")), None)


def documented(root: Path = ROOT) -> list[Documented]:
    """Each command once, in the order of the pages."""
    found: dict[str, Documented] = {}
    for pattern in PAGES:
        for page in sorted(root.glob(pattern)):
            name = str(page.relative_to(root))
            for text in commands_of(page.read_text()) if name != GENERATED else ():
                found.setdefault(text, Documented(text, name))
    return list(found.values())


def commands_of(markdown: str) -> Iterator[str]:
    """Of all fenced blocks; what stands before and after them on their line is not theirs."""
    for block in BLOCK.findall(markdown):
        for line in block.splitlines():
            if match := COMMAND.match(line.strip()):
                yield match[1]


RECIPES = {"bench": "run", "chat": "chat", "engines": "engines"}
OF_STORED_RUNS = ("show", "query", "compare", "history", "report")
LITTLE = ["--preset", "smoke", "--iterations", "1"]


@dataclass(frozen=True)
class Place:
    """What the commands name: two stored runs, a model file, a result; `new_runs` takes what they make."""

    runs: Path
    new_runs: Path
    model_file: Path

    @property
    def result(self) -> Path:
        return sorted(self.runs.glob("*/result.json"))[0]

    def run_id(self, number: int) -> str:
        return sorted(path.name for path in self.runs.iterdir() if path.is_dir())[number]


def engine_words(text: str) -> list[str] | None:
    """`just engine NAME VERB …` as the words after engine-fake; None for another command."""
    words = shlex.split(text)
    if words[:2] != ["just", "engine"]:
        return None
    little = ["--n-gen", "4", "--n-prompt", "4"] if words[3] in ("bench", "generate") else []
    words = ["--ids" if word == "--prompt" else word for word in _plain(words[3:])]
    return ["1,2,3" if before == "--ids" else word for before, word in zip(["", *words], words, strict=False)] + little


def enginebench_words(text: str) -> list[str]:
    """The words after `enginebench`."""
    words = shlex.split(text)
    words = words[2:] if words[:2] == ["uv", "run"] else words
    words = [RECIPES.get(words[1], words[1]), *words[2:]] if words[0] == "just" else words[1:]
    words = _plain(words)
    if words[:1] == ["--benchmark"] and "fake:default" not in words:
        words += ["--framework", "fake:default"]
    if words[:1] in (["run"], ["--benchmark"]) and "--help" not in words:
        words += [] if "--preset" in words else LITTLE
    if words[:1] in (["run"], ["--benchmark"], ["prompt"]):
        words += [] if "--model" in words or "--sweep" in words else ["--model", "tiny"]
    if words[:1] == ["prompt"]:
        words += ["-n", "4", *([] if "--engine" in words else ["--engine", "fake:default"])]
    return words


def placed(words: list[str], place: Place) -> list[str]:
    """With the files and runs of `place`."""
    names = {"BASE": place.run_id(0), "NEW": place.run_id(1)}
    found = [names.get(word, word) for word in words]
    found = [str(place.model_file) if word.endswith("model.gguf") else word for word in found]
    found = [str(place.result) if word.startswith("results/reference/") else word for word in found]
    if words[:1] in (["run"], ["--benchmark"]):
        return [*found, "--results", str(place.new_runs)]
    return [*found, "--results", str(place.runs)] if words[0] in OF_STORED_RUNS else found


def _plain(words: list[str]) -> list[str]:
    """Every engine is the one of known speed, every model of the catalogue the tiny one, a text some token ids."""
    names = {"all", "demo", *discover(), *(alias for info in discover().values() for alias in info.aliases)}
    kept: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        if before == "--configuration":
            kept.append("default")
        elif before == "--model":
            kept.append(word if "/" in word or word.endswith(".gguf") else "tiny")
        elif before == "--python":
            kept.append(f"engine-fake={sys.executable}")
        elif word.partition(":")[0] not in names:
            kept.append(word)
        elif not {"fake", "fake:default"} & set(kept) and "--sweep" not in words:
            kept.append("fake" if "--quantize" in words else "fake:default")
    return kept
