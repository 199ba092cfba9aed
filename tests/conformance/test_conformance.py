"""The conformance suite passes engines that conform, and each way of not conforming fails the check made for it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from enginebench import conformance
from enginebench.conformance import Check, launch, life, run_conformance
from enginebench.workspace.discovery import Configuration, EngineInfo, discover
from enginebench_models.catalogue import entry
from enginebench_models.checkpoint import open_checkpoint
from enginebench_models.synthesis import synthesise

HERE = Path(__file__).parent
FAKE = HERE.parents[1] / "packages" / "engine-fake" / "src"
FAKE_COMMAND = [
    sys.executable,
    "-c",
    f"import sys; sys.path.insert(0, {str(FAKE)!r}); from engine_fake.__main__ import main; main()",
]

LIFE = "hello comes first and is valid"
LOAD = "load reports what was loaded"
GENERATE = "generate yields n_gen ids of the vocabulary"
STAMPS = "stamps increase and agree with the parent's"
FORGETS = "nothing is left of a request that was ended early"
DRAWS = "the same seed draws the same ids, another one others"
SCORE = "score gives finite logits of the right shape"

IN_LIFE = {
    "banner": LIFE,
    "dies": LIFE,
    "silent": LIFE,
    "nonce": LIFE,
    "version": LIFE,
    "name": LIFE,
    "pid": LIFE,
    "extra-configuration": "its configurations are those of its table",
    "needs-no-model": "generate before load is refused",
    "any-configuration": "an unknown configuration is unsupported",
    "failure-code": "an unknown configuration is unsupported",
    "dies-of-missing-model": "a missing model is refused",
    "prints": LOAD,
    "fraction": LOAD,
    "unknown-field": LOAD,
    "context": LOAD,
    "threads": LOAD,
    "precision": LOAD,
    "fingerprint": "the weights are those of the model file",
    "few-ids": GENERATE,
    "many-ids": GENERATE,
    "foreign-ids": GENERATE,
    "always-streams": GENERATE,
    "hash": "the prompt's hash is echoed",
    "n-prompt": "the prompt's hash is echoed",
    "remembers": "the same prompt gives the same ids, also after another one",
    "backwards": STAMPS,
    "wall-clock": STAMPS,
    "early-start": STAMPS,
    "late-reply": STAMPS,
    "few-times": STAMPS,
    "never-streams": "tokens are streamed when asked for",
    "ignores-stop": "a stop id is the last token",
    "drops-stop": "a stop id is the last token",
    "ignores-cancel": "a cancel ends a request that streams",
    "cancel-forgets": "a cancel ends a request that streams",
    "answers-late-cancel": "a cancel that comes too late changes nothing",
    "dies-of-late-cancel": "a cancel that comes too late changes nothing",
    "remembers-the-ended": FORGETS,
    "unseeded": DRAWS,
    "one-seed": DRAWS,
    "refuses-badly": DRAWS,
    "always-hot": "at a temperature near 0 the ids are the greedy ones",
    "stays-hot": "greedy requests are as before, also after drawing",
    "any-id": "an id outside the vocabulary is refused",
    "any-length": "more positions than the context are refused",
    "few-rows": SCORE,
    "n-rows": SCORE,
    "nan": SCORE,
    "file-hash": SCORE,
    "other-folder": SCORE,
    "second-best": "generate chooses the largest logit of score",
    "no-weights": "memory is accounted for",
    "keeps-model": "unload leaves no model",
    "odd-reply": "unload leaves no model",
    "reload": "load works again after unload",
    "exit-code": "shutdown ends with exit code 0",
    "stays": "shutdown ends with exit code 0",
    "last-words": "stdout carried nothing but frames",
}
OTHER = {
    "survives-garbage": "a frame that is no message ends the engine with a code that is not 0",
    "survives-huge-frame": "a length above the cap ends the engine with a code that is not 0",
    "survives-unknown-message": "an unknown message ends the engine with a code that is not 0",
    "eof-code": "an end of file ends an idle engine with exit code 75",
    "outlives-parent": "an end of file ends an idle engine with exit code 75",
    "deaf-while-loading": "an end of file ends a loading engine within 5 s",
}
"""Both: way of being wrong → the first check that must fail."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesise(entry("tiny").config, tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines that hang are not waited for as long as real ones that work."""
    monkeypatch.setattr(launch, "HELLO_SECONDS", 3.0)
    monkeypatch.setattr(life, "LOAD_SECONDS", 5.0)
    monkeypatch.setattr(launch, "END_SECONDS", 2.5)


def second_engine(model: Path, *arguments: str) -> list[str]:
    fingerprint = open_checkpoint(model).fingerprint
    return [sys.executable, str(HERE / "second_engine.py"), "--fingerprint", fingerprint, *arguments]


def table_of_second_engine() -> EngineInfo:
    return EngineInfo(
        name="second",
        module="second_engine",
        description="written from the specification",
        role="engine",
        formats=["gguf"],
        gpu="none",
        configurations={"default": Configuration(description="the only one", precision="float32")},
    )


def failed(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.detail for check in checks if not check.passed}


def test_an_engine_written_from_the_specification_conforms(tiny: Path) -> None:
    checks = run_conformance(second_engine(tiny), tiny, table_of_second_engine())
    assert failed(checks) == {}
    assert not [c for c in checks if "not applicable" in c.detail]
    assert len(checks) == len({c.name for c in checks}) == 39


def test_an_engine_without_a_table_conforms(tiny: Path) -> None:
    checks = run_conformance(second_engine(tiny), tiny, None, "default")
    assert failed(checks) == {}
    assert [c.name for c in checks if "not applicable" in c.detail] == ["its configurations are those of its table"]


def test_the_fake_engine_conforms_and_needs_neither_model_nor_logits(tiny: Path) -> None:
    checks = run_conformance(FAKE_COMMAND, tiny, discover()["fake"])
    assert failed(checks) == {}
    assert sum("not applicable" in c.detail for c in checks) == 4


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("way", IN_LIFE | OTHER)
def test_a_broken_engine_fails_the_check_made_for_it(tiny: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way in IN_LIFE:
        monkeypatch.setattr(conformance, "LAUNCHES", (life.Life,))
    checks = run_conformance(second_engine(tiny, "--break", way), tiny, table_of_second_engine())
    found = failed(checks)
    assert next(iter(found), None) == (IN_LIFE | OTHER)[way], found
    assert found[(IN_LIFE | OTHER)[way]], "the detail says what was found"


@pytest.mark.usefixtures("impatient")
def test_after_a_broken_stream_the_rest_is_not_reached(tiny: Path) -> None:
    checks = run_conformance(second_engine(tiny, "--break", "prints"), tiny, table_of_second_engine())
    details = [c.detail for c in checks if not c.passed]
    assert details[0].startswith("FrameError")
    assert all(d.startswith(f"not reached: {LOAD}: FrameError") for d in details[1:23])


@pytest.mark.usefixtures("impatient")
def test_the_last_line_of_stderr_explains_a_death(tiny: Path) -> None:
    checks = run_conformance(second_engine(tiny, "--break", "dies"), tiny, table_of_second_engine())
    assert checks[0].detail.endswith("stderr ends: no GPU, no fun")


def test_a_program_that_cannot_be_started_is_one_failed_check_per_launch(tiny: Path) -> None:
    checks = run_conformance([str(HERE / "nowhere")], tiny, None)
    assert {c.name for c in checks} == {"the program starts"}
    assert not any(c.passed for c in checks)


def test_an_engine_that_cannot_draw_conforms_if_it_says_so(tiny: Path) -> None:
    checks = run_conformance(second_engine(tiny, "--break", "refuses-to-draw"), tiny, table_of_second_engine())
    assert failed(checks) == {}
    assert {c.detail for c in checks if c.detail} == {"not applicable: this engine cannot draw"}
    assert [c.name for c in checks if c.detail] == [DRAWS, "at a temperature near 0 the ids are the greedy ones"]


@pytest.mark.parametrize(
    ("way", "check"),
    [
        ("clinging", "a stop id is the last token"),
        ("leftover", FORGETS),
        ("unseeded", DRAWS),
    ],
)
def test_what_the_fake_engine_does_wrong_with_early_ends_and_draws_is_found(tiny: Path, way: str, check: str) -> None:
    assert next(iter(failed(run_conformance(FAKE_COMMAND, tiny, discover()["fake"], way)))) == check


@pytest.mark.parametrize("way", ["short", "wrong", "out-of-range", "bug", "exit", "crash", "refuse"])
def test_misbehaving_configurations_of_the_fake_engine_are_found(tiny: Path, way: str) -> None:
    checks = run_conformance(FAKE_COMMAND, tiny, discover()["fake"], way)
    assert failed(checks), way


@pytest.mark.parametrize("way", ["noisy-stdout", "flood-stderr", "greedy-only"])
def test_what_the_guard_makes_harmless_passes(tiny: Path, way: str) -> None:
    checks = run_conformance(FAKE_COMMAND, tiny, discover()["fake"], way)
    assert failed(checks) == {}
