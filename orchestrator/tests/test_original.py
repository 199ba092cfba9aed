"""Command lines of the original suite, word for word, and what they are today. Nothing is run here."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from enginebench.cli.original import is_original, spelled_out, translated
from enginebench.errors import UsageError
from enginebench.workspace.discovery import EngineInfo, discover

TABLE = """
[project]
name = "engine-{name}"
[tool.enginebench.engine]
name = "{name}"
module = "engine_{name}"
description = "d"
role = "{role}"
formats = ["gguf"]
gpu = "none"
fair = "fast"
aliases = ["py{name}"]
nearest = {{ nf4 = "int8" }}
[tool.enginebench.engine.configurations]
plain = {{ description = "p", precision = "float32" }}
plain16 = {{ description = "p", precision = "16-bit", compares = {{ "precision impact" = "plain" }} }}
fast32 = {{ description = "s", precision = "float32", compares = {{ "compilation benefit" = "plain" }} }}
fast = {{ description = "s", precision = "16-bit", compares = {{ "compilation benefit" = "plain16", "precision impact" = "fast32" }} }}
int8 = {{ description = "q", precision = "int8", quantisation = "int8", in_all = false }}
"""  # noqa: E501


@pytest.fixture
def engines(tmp_path: Path) -> dict[str, EngineInfo]:
    for name, role in (("alpha", "engine"), ("beta", "engine"), ("bound", "instrument")):
        folder = tmp_path / "packages" / f"engine-{name}"
        folder.mkdir(parents=True)
        (folder / "pyproject.toml").write_text(TABLE.format(name=name, role=role))
    return discover(tmp_path)


def today(line: str, engines: dict[str, EngineInfo]) -> list[str]:
    return [shlex.join(command) for command in translated(shlex.split(line), engines)]


LINES = {
    "--model llama3-8b": "chat --model llama3-8b",
    "--temperature 0.7 --seed 3": "chat --temperature 0.7 --seed 3",
    "--framework pyalpha --model tiny": "chat alpha --model tiny",
    "--framework alpha --model tiny --quantize int8": "chat alpha:int8 --model tiny",
    "--framework pyalpha --pyalpha-no-compile": "chat alpha:plain16",
    "--model llama3-1b --quantize int8": "chat alpha:int8 --model llama3-1b",
    "--framework alpha beta": "chat alpha beta",
    "--framework alpha --quantize int8 float16": "chat alpha:int8 alpha:fast",
    "--framework alpha:plain beta": "chat alpha:plain beta",
    "--framework all --alpha-no-compile": "chat alpha:plain16",
    "--alpha-no-compile": "chat alpha:plain16",
    "--prompt hello --framework beta --quantize int8": "prompt hello --engine beta:int8",
    "--prompt 'Explain quantum computing' --timing": "prompt 'Explain quantum computing' --timing",
    "--prompt -": "prompt -",
    "--benchmark": "run alpha:fast beta:fast",
    "--benchmark --iterations 10": "run alpha:fast beta:fast --iterations 10",
    "--benchmark --framework beta": "run beta:fast",
    "--benchmark --framework beta pyalpha --iterations 20": "run beta:fast alpha:fast --iterations 20",
    "--benchmark --framework beta,alpha:plain": "run beta:fast alpha:plain",
    "--benchmark --iterations 20 --timing --profile": "run alpha:fast beta:fast --iterations 20 --timing --profile",
    "--benchmark --iterations 10 --quantize int8 nf4 float16": "run all --quantize int8,nf4,float16 --iterations 10",
    "--benchmark --model llama3-70b --shard 2 --iterations 5": (
        "run alpha:fast beta:fast --model llama3-70b --iterations 5 --shard 2"
    ),
    "--benchmark --model-type llama --model-path DIR": "run alpha:fast beta:fast --model DIR --model-type llama",
    "--benchmark --framework alpha --fair-comparison": "run alpha:fast",
    "--benchmark --framework alpha --no-fair-comparison": "run alpha --no-fair-comparison",
    "--benchmark --framework alpha --pyalpha-no-compile": "run alpha:plain16",
    "--benchmark --framework alpha --pyalpha-no-half": "run alpha:fast32",
    "--benchmark --framework alpha beta --pyalpha-no-half --pyalpha-no-compile": "run alpha:plain beta:fast",
    "--benchmark --framework alpha --quantize float16 --alpha-no-compile": (
        "run alpha --quantize float16 --no-compile alpha"
    ),
    "--benchmark --temperature 0.7 --debug": "run alpha:fast beta:fast --temperature 0.7 --debug",
    "--benchmark --framework alpha --preset smoke -o json": "run alpha:fast --preset smoke -o json",
    "--download": "models pull llama3-1b",
    "--download --model llama3-8b": "models pull llama3-8b",
}


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_the_original_suite_is_a_command_of_today(engines: dict[str, EngineInfo], line: str) -> None:
    assert today(line, engines) == [LINES[line]]


def test_a_download_comes_before_what_needs_it(engines: dict[str, EngineInfo]) -> None:
    found = today("--download --benchmark --model llama3-8b --framework alpha", engines)
    assert found == ["models pull llama3-8b", "run alpha:fast --model llama3-8b"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("--benchmrak", "did you mean '--benchmark'"),
        ("--benchmark --itertions 5", "did you mean '--iterations'"),
        ("--benchmark --framework alhpa", "did you mean 'alpha'"),
        ("--benchmark --alhpa-no-compile", "did you mean 'alpha'"),
        ("--benchmark --framework beta --alpha-no-compile", "alpha is not among the engines"),
        ("--framework alpha --quantize int9", "did you mean 'int8'"),
        ("--prompt hello --benchmark", "choose one"),
        ("--prompt hello --iterations 5", "add --benchmark"),
        ("--no-fair-comparison", "add --benchmark"),
        ("--quantize nf4", "alpha:nf4: no nf4; nearest: --quantize int8; beta:nf4"),
        ("--prompt hello --framework alpha beta", "alpha, beta: one of them answers a prompt"),
        ("--framework alpha --quantize nf4", "alpha:nf4: no nf4; nearest: --quantize int8"),
        ("--framework bound --quantize int8", "an instrument shows what the device can do, and answers nothing"),
        ("--benchmark --model", "expected one argument"),
    ],
)
def test_what_cannot_be_understood_is_refused_with_a_remedy(
    engines: dict[str, EngineInfo], line: str, told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        today(line, engines)


@pytest.mark.parametrize(
    ("line", "interactive", "original"),
    [
        ("", True, True),
        ("", False, False),
        ("--benchmark", False, True),
        ("run alpha --iterations 5", True, False),
        ("--version", True, False),
        ("--benchmark --help", True, False),
    ],
)
def test_only_options_in_front_and_a_bare_terminal_are_the_original_suite(
    line: str, interactive: bool, original: bool
) -> None:
    assert is_original(line.split(), interactive) is original


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("run --quantize int8 nf4 float16", "run --quantize int8,nf4,float16"),
        ("run alpha --quantize int8 nf4 beta --seed 1", "run alpha --quantize int8,nf4 beta --seed 1"),
        ("run --quantize int8 --quantize nf4 alpha:fast", "run --quantize int8 --quantize nf4 alpha:fast"),
        ("run alpha --quantize", "run alpha --quantize"),
        ("run --framework alpha beta --pyalpha-no-half", "run --framework alpha beta --no-half alpha"),
    ],
)
def test_several_words_of_a_run_are_one_value(engines: dict[str, EngineInfo], line: str, found: str) -> None:
    assert shlex.join(spelled_out(line.split(), engines)) == found
