"""Engines come from their pyproject tables; names are resolved with near matches."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from enginebench.errors import UsageError
from enginebench.workspace.discovery import EngineInfo, Option, discover, select, unavailable_reason

TABLE = """
[project]
name = "engine-{name}"
[tool.enginebench.engine]
name = "{name}"
module = "engine_{name}"
description = "d"
role = "{role}"
formats = ["gguf"]
gpu = "{gpu}"
aliases = ["old-{name}"]
programs = {programs}
[tool.enginebench.engine.configurations]
plain = {{ description = "p", precision = "float32" }}
special = {{ description = "s", precision = "16-bit", in_all = false }}
"""


@pytest.fixture
def engines(tmp_path: Path) -> dict[str, EngineInfo]:
    write(tmp_path, "alpha", "engine", "optional")
    write(tmp_path, "beta", "engine", "required")
    write(tmp_path, "speedlimit", "instrument", "none")
    write(tmp_path, "mock", "test", "none", programs='["no-such-program-here"]')
    return discover(tmp_path)


def write(root: Path, name: str, role: str, gpu: str, programs: str = "[]") -> None:
    folder = root / "packages" / f"engine-{name}"
    folder.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(TABLE.format(name=name, role=role, gpu=gpu, programs=programs))


def labels(chosen: list[tuple[EngineInfo, str]]) -> list[str]:
    return [f"{info.name}:{configuration}" for info, configuration in chosen]


def test_all_means_engines_and_their_ordinary_configurations_with_the_instruments(
    engines: dict[str, EngineInfo],
) -> None:
    assert labels(select(["all"], engines)) == ["speedlimit:plain", "alpha:plain", "beta:plain"]


def test_a_special_configuration_runs_when_named(engines: dict[str, EngineInfo]) -> None:
    assert labels(select(["alpha:special"], engines)) == ["speedlimit:plain", "alpha:special"]


def test_an_alias_is_the_engine(engines: dict[str, EngineInfo]) -> None:
    assert "alpha:plain" in labels(select(["old-alpha"], engines))


def test_naming_an_engine_twice_runs_it_once(engines: dict[str, EngineInfo]) -> None:
    assert labels(select(["alpha", "alpha:plain"], engines)).count("alpha:plain") == 1


@pytest.mark.parametrize(("name", "near"), [("alhpa", "'alpha'"), ("alpha:plan", "'plain'")])
def test_an_unknown_name_is_answered_with_the_near_match(engines: dict[str, EngineInfo], name: str, near: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean {near}"):
        select([name], engines)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ('"precision impact" = "plane"', "plain"),
        ('"precision impct" = "plain"', "precision impact"),
    ],
)
def test_a_comparison_with_what_does_not_exist_is_refused_with_the_near_match(
    tmp_path: Path, entry: str, told: str
) -> None:
    write(tmp_path, "odd", "engine", "none")
    file = tmp_path / "packages" / "engine-odd" / "pyproject.toml"
    file.write_text(file.read_text().replace("in_all = false", f"in_all = false, compares = {{ {entry} }}"))
    with pytest.raises(UsageError, match=told):
        discover(tmp_path)


QUANTISED = """
[tool.enginebench.engine.configurations.rounded]
description = "r"
precision = "int8"
in_all = {in_all}
quantisation = "int8"
[tool.enginebench.engine.nearest]
nf4 = "{nearest}"
"""


def quantised(root: Path, in_all: str = "false", nearest: str = "int8") -> EngineInfo:
    write(root, "odd", "engine", "none")
    file = root / "packages" / "engine-odd" / "pyproject.toml"
    flags = 'gpu = "none"\nshards = true\nprofiles = true'
    text = file.read_text().replace('gpu = "none"', flags)
    file.write_text(text + QUANTISED.format(in_all=in_all, nearest=nearest))
    return discover(root)["odd"]


def test_a_table_says_what_its_engine_quantises_offers_instead_shards_and_profiles(tmp_path: Path) -> None:
    info = quantised(tmp_path)
    assert {name: c.quantisation for name, c in info.configurations.items()} == {
        "plain": "",
        "special": "",
        "rounded": "int8",
    }
    assert (info.nearest, info.shards, info.profiles) == ({"nf4": "int8"}, True, True)


def test_what_a_table_does_not_say_its_engine_cannot_do(engines: dict[str, EngineInfo]) -> None:
    info = engines["alpha"]
    assert (info.nearest, info.shards, info.profiles) == ({}, False, False)


def test_the_first_configuration_stands_for_its_engine_unless_the_table_says_which(tmp_path: Path) -> None:
    write(tmp_path, "odd", "engine", "none")
    assert (discover(tmp_path)["odd"].fair, discover(tmp_path)["odd"].out_of_the_box) == ("plain", "plain")
    file = tmp_path / "packages" / "engine-odd" / "pyproject.toml"
    file.write_text(file.read_text().replace('gpu = "none"', 'gpu = "none"\nfair = "special"'))
    assert (discover(tmp_path)["odd"].fair, discover(tmp_path)["odd"].out_of_the_box) == ("special", "plain")
    file.write_text(file.read_text().replace('fair = "special"', 'fair = "speciel"'))
    with pytest.raises(UsageError, match="fair 'speciel': did you mean 'special'"):
        discover(tmp_path)


def test_an_offer_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nearest to nf4 'int9': did you mean 'int8'"):
        quantised(tmp_path, nearest="int9")


def test_a_quantised_configuration_runs_only_when_it_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="rounded is quantised: write in_all = false"):
        quantised(tmp_path, in_all="true")


def test_a_malformed_table_is_refused_with_its_file(tmp_path: Path) -> None:
    write(tmp_path, "odd", "king", "none")
    with pytest.raises(UsageError, match=r"engine-odd/pyproject.toml.*role"):
        discover(tmp_path)


def test_reasons_for_unavailability(engines: dict[str, EngineInfo]) -> None:
    assert unavailable_reason(engines["alpha"], None, "cpu") is None
    assert unavailable_reason(engines["beta"], None, "cpu") == "needs an NVIDIA GPU"
    assert unavailable_reason(engines["beta"], None, "cuda") is None
    assert unavailable_reason(engines["mock"], None, "cpu") == "program `no-such-program-here` not found on PATH"


def test_a_missing_program_is_named_with_its_source_and_an_option_can_stand_for_it(
    engines: dict[str, EngineInfo],
) -> None:
    info = msgspec.structs.replace(
        engines["mock"],
        program_sources={"no-such-program-here": "example.org"},
        options={"host": Option(description="one that runs", replaces=["no-such-program-here"])},
    )
    missing = "program `no-such-program-here` not found on PATH; get it from example.org"
    assert unavailable_reason(info, None, "cpu") == missing
    assert unavailable_reason(info, None, "cpu", {"host": "localhost:1"}) is None
