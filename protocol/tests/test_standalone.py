"""An engine as a command for people: its answers, its exit codes, and what it says when it is used wrongly."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from toy_engine import argmax, logits


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "small.toy"
    path.touch()
    return path


@pytest.fixture
def toy(toy_command: list[str], tmp_path: Path) -> Any:
    """toy("bench", …) runs the command with nothing on stdin."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*toy_command, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            env={"XDG_CACHE_HOME": str(tmp_path / "cache"), "PATH": "/usr/bin:/bin"},
        )

    return run


def continuation(tokens: list[int], n: int) -> list[int]:
    for _ in range(n):
        tokens = [*tokens, argmax(logits(tokens))]
    return tokens[-n:]


def test_describe_lists_every_configuration(toy: Any) -> None:
    done = toy("describe")
    assert done.returncode == 0
    assert "toy:plain" in done.stdout
    facts = json.loads(toy("describe", "-o", "json").stdout)
    assert (facts["engine"], facts["protocol"]) == ("toy", 1)
    assert list(facts["configurations"])[:2] == ["plain", "noisy"]


def test_generate_continues_the_ids_it_is_given(toy: Any, model: Path) -> None:
    done = toy("generate", "--model", model, "--ids", "3,1", "--n-gen", 4)
    assert done.returncode == 0
    assert done.stdout.strip() == ",".join(map(str, continuation([3, 1], 4)))


def test_generate_draws_at_a_temperature_by_its_seed(toy: Any, model: Path) -> None:
    def ids(*flags: object) -> str:
        done = toy("generate", "--model", model, "--ids", "3,1", "--n-gen", 30, *flags)
        assert done.returncode == 0
        return done.stdout

    drawn = ids("--temperature", 5, "--seed", 7)
    assert drawn == ids("--temperature", 5, "--seed", 7)
    assert len({drawn, ids("--temperature", 5, "--seed", 8), ids("--seed", 7)}) == 3
    assert ids("--temperature", 0) == ids("--temperature", 1e-6) == ids()


@pytest.mark.parametrize(
    "flags", [("--temperature", -1), ("--temperature", "nan"), ("--temperature", 11), ("--seed", -1)]
)
def test_a_temperature_or_seed_out_of_bounds_is_wrong_usage(toy: Any, model: Path, flags: tuple[object, ...]) -> None:
    done = toy("generate", "--model", model, "--ids", "3,1", *flags)
    assert done.returncode == 2
    assert f"argument {flags[0]}" in done.stderr


def test_an_option_of_the_engine_is_a_flag_of_its_command(toy: Any, model: Path) -> None:
    done = toy("generate", "--model", model, "--ids", "3,1", "--n-gen", 1, "--toy-offset", 2)
    assert done.stdout.strip() == str((continuation([3, 1], 1)[0] + 2) % 16)


def test_generate_answers_text_with_text(toy: Any, model: Path) -> None:
    ids = continuation([ord(c) % 16 for c in "hi"], 3)
    done = toy("generate", "--model", model, "--prompt", "hi", "--n-gen", 3)
    assert done.stdout.strip() == "".join(chr(ord("a") + i) for i in ids)


def test_bench_prints_every_request_as_json(toy: Any, model: Path) -> None:
    done = toy("bench", "--model", model, "--n-gen", 5, "--iterations", 3, "--warmup", 2, "-o", "json")
    assert done.returncode == 0
    result = json.loads(done.stdout)
    assert len(result["requests"]) == 5
    assert [len(r["itl_ns"]) for r in result["requests"]] == [4] * 5
    assert result["metrics"]["decode_tps"] > 0
    assert (result["model"], result["weights"], result["n_prompt"]) == ("small", "synthetic", 128)


def test_bench_prints_text_for_people(toy: Any, model: Path) -> None:
    done = toy("bench", "--model", model, "--n-gen", 5, "--iterations", 2)
    assert re.search(r"toy:plain  small \(synthetic weights\)  pp128\+tg5", done.stdout)
    assert re.search(r"TPOT +\d+\.\d\d ms", done.stdout)


def test_one_token_has_no_decode_rate(toy: Any, model: Path) -> None:
    done = toy("bench", "--model", model, "--n-gen", 1, "--iterations", 1, "-o", "json")
    assert json.loads(done.stdout)["metrics"]["decode_tps"] is None


def test_score_compares_through_the_models_seam(toy: Any, model: Path, tmp_path: Path) -> None:
    done = toy("score", "--model", model, "--n-prompt", 4, "--n-gen", 6)
    assert (done.returncode, json.loads(done.stdout)["passed"]) == (0, True)
    (tmp_path / "other.toy").touch()
    done = toy("score", "--model", tmp_path / "other.toy")
    assert (done.returncode, json.loads(done.stdout)["passed"]) == (1, False)


def test_what_an_engine_prints_on_its_own_account_is_not_data(toy: Any, model: Path) -> None:
    done = toy("bench", "--model", model, "--configuration", "bug", "--n-gen", 2)
    assert done.returncode != 0
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "required: verb"),
        (["fly"], "invalid choice: 'fly'"),
        (["bench", "--n-gen", "0"], "0 is not at least 1"),
        (["bench", "--n-gen", "many"], "invalid"),
        (["bench", "--warmup", "-1"], "-1 is below 0"),
        (["bench", "--device", "abacus"], "'abacus'"),
        (["bench", "--model", "nowhere"], "no model 'nowhere'"),
        (["bench", "--configuration", "plane"], "unknown configuration 'plane': toy has plain, noisy"),
        (["generate", "--model", "MODEL", "--ids", "1,two"], "--ids '1,two': give token ids"),
        (["generate", "--model", "MODEL", "--ids", "99999999999"], "--ids '99999999999'"),
        (["reproduce", "nowhere.json"], "cannot read nowhere.json"),
    ],
)
def test_wrong_usage_ends_with_2_and_names_the_value(
    toy: Any, model: Path, arguments: list[str], complaint: str
) -> None:
    done = toy(*[str(model) if a == "MODEL" else a for a in arguments])
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_too_few_tokens_end_with_1(toy: Any, model: Path) -> None:
    done = toy("bench", "--model", model, "--configuration", "short", "--n-gen", 4)
    assert done.returncode == 1
    assert "produced 3 of 4 tokens" in done.stderr


def recorded(model: Path, **changes: Any) -> dict[str, Any]:
    """A result.json with only the fields that `reproduce` reads."""
    case = {
        "engine": "toy",
        "configuration": "plain",
        "model": "small",
        "workload": "pp7+tg3",
        "status": "ok",
        "metrics": {"tpot_ns": {"value": 2e6}, "ttft_ns": {"value": 4e6}, "decode_tps": {"value": None}},
    }
    plan = {
        "models": [{"name": "small", "source": str(model), "weights": "auto", "fingerprint": "0" * 64}],
        "workloads": [{"name": "pp7+tg3", "n_prompt": 7, "n_gen": 3, "n_ctx": 10}],
        "device": "cpu",
        "threads": 1,
        "warmup": 1,
        "iterations": 2,
        "seed": 0,
    }
    return {"schema_version": 1, "plan": plan, "cases": [case]} | changes


@pytest.fixture
def result(tmp_path: Path) -> Any:
    def write(content: object) -> Path:
        path = tmp_path / "result.json"
        path.write_text(json.dumps(content))
        return path

    return write


def test_reproduce_sets_old_and_new_side_by_side(toy: Any, model: Path, result: Any) -> None:
    done = toy("reproduce", result(recorded(model)))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("toy:plain  small  pp7+tg3\n")
    assert re.search(r"TTFT +4\.00 +\d+\.\d\d +\d+\.\d{3}  ms", done.stdout)
    assert re.search(r"load +- +\d+\.\d\d +-  s", done.stdout), "what was not recorded is a dash, not a zero"
    assert done.stdout.endswith("weights: the same\n")


def test_reproduce_says_when_the_weights_differ(toy: Any, model: Path, result: Any) -> None:
    content = recorded(model)
    content["plan"]["models"][0]["fingerprint"] = "1" * 64
    assert "weights: DIFFERENT" in toy("reproduce", result(content)).stdout


def without(content: dict[str, Any], *path: str) -> dict[str, Any]:
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return content


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda m: [], "no result of schema version 1"),
        (lambda m: recorded(m, schema_version=2), "no result of schema version 1"),
        (lambda m: recorded(m, cases=[]), "no measured case of toy; the file holds none"),
        (lambda m: without(recorded(m), "plan"), "no complete result: KeyError 'plan'"),
        (lambda m: without(recorded(m), "plan", "seed"), "no complete result: KeyError 'seed'"),
        (lambda m: recorded(m, cases=[{}]), "no complete result: KeyError 'engine'"),
    ],
    ids=["list", "other-schema", "no-cases", "no-plan", "no-seed", "empty-case"],
)
def test_reproduce_refuses_what_is_no_result(toy: Any, model: Path, result: Any, make: Any, complaint: str) -> None:
    done = toy("reproduce", result(make(model)))
    assert done.returncode == 2
    assert complaint in done.stderr


def test_reproduce_names_the_configurations_there_are(toy: Any, model: Path, result: Any) -> None:
    done = toy("reproduce", result(recorded(model)), "--configuration", "noisy")
    assert done.returncode == 2
    assert "no measured case of toy:noisy; the file holds toy:plain" in done.stderr
