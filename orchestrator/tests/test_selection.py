"""Which configurations are compared: by fairness, by quantisation, and without compilation or half precision."""

from __future__ import annotations

from pathlib import Path

import pytest
from enginebench.errors import UsageError
from enginebench.workspace.discovery import EngineInfo, discover, unavailable_reason
from enginebench.workspace.selection import Selection, fairest, labels, one_able, quantisations, selected

HEAD = """
[project]
name = "engine-{name}"
[tool.enginebench.engine]
name = "{name}"
module = "engine_{name}"
description = "d"
role = "{role}"
formats = ["gguf"]
gpu = "none"
"""
BROAD = """
fair = "fast"
nearest = { nf4 = "q4_0" }
[tool.enginebench.engine.configurations]
plain = { description = "float32, eager", precision = "float32" }
half = { description = "eager", precision = "16-bit", compares = { "precision impact" = "plain" } }
fast = { description = "compiled", precision = "16-bit", compares = { "compilation benefit" = "half" } }
int8 = { description = "rounded", precision = "int8", quantisation = "int8", in_all = false }
int8-eager = { description = "rounded", precision = "int8", quantisation = "int8", in_all = false }
q4_0 = { description = "rounded", precision = "q4_0", quantisation = "q4_0", in_all = false }
"""
NARROW = """
[tool.enginebench.engine.configurations]
only = { description = "float32", precision = "float32" }
"""


@pytest.fixture
def engines(tmp_path: Path) -> dict[str, EngineInfo]:
    for name, role, body in (("broad", "engine", BROAD), ("narrow", "engine", NARROW), ("bound", "instrument", NARROW)):
        folder = tmp_path / "packages" / f"engine-{name}"
        folder.mkdir(parents=True)
        (folder / "pyproject.toml").write_text(HEAD.format(name=name, role=role) + body)
    return discover(tmp_path)


def test_a_fair_run_takes_every_ordinary_configuration(engines: dict[str, EngineInfo]) -> None:
    assert labels(selected(Selection(), engines)) == ["broad:plain", "broad:half", "broad:fast", "narrow:only"]


def test_an_unfair_run_takes_each_engine_as_it_comes(engines: dict[str, EngineInfo]) -> None:
    assert labels(selected(Selection(fair=False), engines)) == ["broad:plain", "narrow:only"]
    assert labels(selected(Selection(("broad:half",), fair=False), engines)) == ["broad:half"]


def test_one_configuration_of_each_stands_for_it(engines: dict[str, EngineInfo]) -> None:
    assert fairest(["all"], engines) == ("broad:fast", "narrow:only")
    assert fairest(["broad:half", "narrow"], engines) == ("broad:half", "narrow:only")


def test_a_quantisation_selects_of_each_engine_what_holds_the_weights_so(engines: dict[str, EngineInfo]) -> None:
    chosen = selected(Selection(("broad",), quantisations=("int8", "float16")), engines)
    assert [f"{info.name}:{name}" for info, name in chosen] == [
        "bound:only",
        "broad:int8",
        "broad:int8-eager",
        "broad:fast",
    ]
    assert all(unavailable_reason(info, name, "cpu") is None for info, name in chosen)


@pytest.mark.parametrize(
    ("engine", "quantisation", "reason"),
    [
        ("broad", "nf4", "no nf4; nearest: --quantize q4_0"),
        ("narrow", "int8", "no int8; it makes no quantised weights"),
        ("narrow", "float16", "no float16; it makes no quantised weights"),
    ],
)
def test_an_engine_without_it_keeps_its_row_with_the_nearest_offer(
    engines: dict[str, EngineInfo], engine: str, quantisation: str, reason: str
) -> None:
    ((info, name),) = [
        c for c in selected(Selection((engine,), quantisations=(quantisation,)), engines) if c[0].role == "engine"
    ]
    assert unavailable_reason(info, name, "cpu") == reason


def test_without_an_offer_what_the_engine_has_is_said(engines: dict[str, EngineInfo]) -> None:
    engines["narrow"].nearest["q8_0"] = "x"  # makes the word known
    info, name = selected(Selection(("broad",), quantisations=("q8_0",)), engines)[-1]
    assert unavailable_reason(info, name, "cpu") == "no q8_0; it has int8, q4_0"


def test_every_word_that_a_table_or_the_original_suite_knows_is_known(engines: dict[str, EngineInfo]) -> None:
    assert quantisations(engines) == ["float16", "int8", "nf4", "q4_0"]


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        (Selection(quantisations=("int9",)), "did you mean 'int8'"),
        (Selection(("broad:half",), quantisations=("int8",)), "both name a configuration: write broad"),
        (Selection(("brood",), quantisations=("int8",)), "did you mean 'broad'"),
        (Selection(("narrow",), without=(("broad", "no-half"),)), "broad is not among the engines"),
        (Selection(("narrow",), without=(("narrow", "no-half"),)), "narrow has no such configuration"),
        (Selection(("broad:int8",), without=(("broad", "no-compile"),)), "it can be left out of broad:fast"),
    ],
)
def test_what_no_table_holds_is_refused_with_a_remedy(
    engines: dict[str, EngineInfo], wish: Selection, told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        selected(wish, engines)


@pytest.mark.parametrize(
    ("names", "options", "found"),
    [
        (("broad:fast",), ("no-compile",), ["broad:half"]),
        (("broad:fast",), ("no-compile", "no-half"), ["broad:plain"]),
        (("broad:plain",), ("no-half",), ["broad:plain"]),
        (("broad:half", "broad:fast", "narrow"), ("no-compile",), ["broad:half", "narrow:only"]),
    ],
)
def test_without_something_an_engine_is_the_base_of_that_comparison(
    engines: dict[str, EngineInfo], names: tuple[str, ...], options: tuple[str, ...], found: list[str]
) -> None:
    wish = Selection(names, without=tuple(("broad", option) for option in options))
    assert labels(selected(wish, engines)) == found


def test_the_one_that_answers_is_one_that_can_run_here(engines: dict[str, EngineInfo]) -> None:
    both = selected(Selection(quantisations=("int8",)), engines)
    assert one_able(both, "cpu") == "broad:int8"
    with pytest.raises(UsageError, match=r"broad:int8: runs on the CPU only; .* narrow:int8: no int8"):
        one_able(both, "cuda")
