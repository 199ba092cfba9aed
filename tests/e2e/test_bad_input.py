"""Wrong input: exit code 2, the value and the remedy on stderr, nothing written, no stack trace."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from enginebench_models.store import locate

from .conftest import Cli


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "fak"], "did you mean 'fake'"),
        (["run", "fake:defualt"], "did you mean 'default'"),
        (["run", "fake", "--model", "tyni"], "did you mean 'tiny'"),
        (["run", "fake", "--model", "./no-such-folder"], "no-such-folder"),
        (["run", "fake", "--model", "tiny", "--preset", "smok"], "did you mean 'smoke'"),
        (["run", "fake", "--model", "tiny", "--n-gen", "200000"], "context"),
        (["run", "fake", "--model", "tiny", "--n-gen", "0"], "greater than or equal to 1"),
        (["run", "fake", "--model", "tiny", "-d", "0,200000"], "n_depth 200000 + n_prompt 128"),
        (["run", "fake", "--model", "tiny", "-p", "128-64"], "never reaches its end"),
        (["run", "fake", "--model", "tiny", "--workload", "decoed"], "did you mean 'decode'"),
        (["run", "fake", "--model", "tiny", "--workload", "decode", "-p", "64"], "not by both"),
        (["run", "fake", "--model", "tiny", "--model", "tiny"], "both called tiny"),
        (["run", "--sweep", "no-such.toml"], "no-such.toml"),
        (["run", "fake", "--model", "llama3-8b", "--weights", "real"], "enginebench models pull llama3-8b"),
        (["run", "fake", "--model", "tiny", "--device", "cuda"], "no NVIDIA driver"),
        (["run", "fake", "--model", "tiny", "--python", "engine-fake=nowhere"], "nowhere"),
        (["run", "fake", "--model", "tiny", "--option", "host=1"], "write ENGINE.NAME=VALUE"),
        (["run", "fake", "--model", "tiny", "--option", "olama.host=1"], "did you mean 'ollama.host'"),
        (["run", "fake", "--model", "tiny", "--itertions", "5"], "--iterations"),
        (["run", "fake", "--model", "tiny", "--quantize", "int8", "nf5"], "did you mean 'nf4'"),
        (["run", "fake:slow", "--model", "tiny", "--quantize", "int8"], "both name a configuration"),
        (["run", "fake", "--model", "tiny", "--timing", "-o", "benchstat"], "take -o jsonl"),
        (["run", "fake", "--model", "tiny", "--model-type", "lama"], "did you mean 'llama'"),
        (["show", "no-such-run"], "no-such-run"),
        (["conform", "no-such-engine"], "no-such-engine"),
    ],
)
def test_wrong_input_is_refused_with_the_value_and_a_remedy(
    cli: Cli, tmp_path: Path, arguments: list[str], message: str
) -> None:
    results = ["--results", str(tmp_path)] if arguments[0] != "conform" else []
    done = cli(*arguments, *results)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rnu"], "did you mean 'run'"),
        (["--benchmrak"], "did you mean '--benchmark'"),
        (["--benchmark", "--framework", "fak"], "did you mean 'fake'"),
        (["--benchmark", "--iterations", "ten", "--framework", "fake"], "Invalid value for '--iterations'"),
        (["--benchmark", "--framework", "fake", "--fake-no-compile"], "fake has no such configuration"),
        (["--prompt", "hello", "--iterations", "5"], "add --benchmark"),
        (["--prompt", "hello", "--framework", "fake", "--model", "tiny", "--model-type", "gpt"], "Expected 'gpt'"),
        (["--prompt", "hello", "--framework", "fake", "--shard", "2000"], "this machine has"),
    ],
)
def test_wrong_words_in_front_are_refused_alike(cli: Cli, arguments: list[str], message: str) -> None:
    done = cli(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_terminal_and_words_there_is_help_and_exit_code_2(cli: Cli) -> None:
    done = cli()
    assert done.returncode == 2
    assert "new-engine" in done.stdout + done.stderr


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return locate("tiny", "synthetic", tmp_path_factory.mktemp("models")).path


def test_another_model_type_is_named(cli: Cli, tiny: Path) -> None:
    done = cli("run", "fake", "--model", str(tiny), "--model-type", "gpt")
    assert done.returncode == 2
    assert "Model type mismatch: Expected 'gpt' but detected 'llama'" in done.stderr


@pytest.mark.parametrize("asked", [[], ["--model-type", "gpt"]])
def test_gpt_is_recognised_and_refused(cli: Cli, tmp_path: Path, asked: list[str]) -> None:
    folder = tmp_path / "gpt2"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    (folder / "model.safetensors").write_bytes(b"not looked at")
    done = cli("run", "fake", "--model", str(folder), *asked)
    assert done.returncode == 2
    assert "holds a GPT model: it is recognised, but only LLaMA models are run here" in done.stderr


def test_a_truncated_file_is_refused_with_both_sizes(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny.read_bytes()[:-1000])
    done = cli("run", "fake", "--model", str(cut))
    assert done.returncode == 2
    assert "truncated" in done.stderr
    assert f"{cut.stat().st_size:,}" in done.stderr


def test_a_file_that_is_no_model_is_refused(cli: Cli, tmp_path: Path) -> None:
    text = tmp_path / "notes.gguf"
    text.write_text("these are notes, not weights")
    done = cli("run", "fake", "--model", str(text))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_hostile_file_is_refused_before_any_engine_sees_it(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    """One bit of the directory: the last tensor claims to start elsewhere."""
    raw = bytearray(tiny.read_bytes())
    at = raw.rindex(b"output_norm.weight") + len("output_norm.weight") + 4 + 8 + 4
    raw[at + 3] ^= 0x40
    hostile = tmp_path / "hostile.gguf"
    hostile.write_bytes(raw)
    done = cli("run", "fake", "--model", str(hostile))
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "output_norm.weight starts at" in done.stderr


def test_validate_says_what_a_file_is_or_which_rule_it_breaks(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    sound = cli("validate", str(tiny), "--output", "json")
    facts = json.loads(sound.stdout)
    assert (sound.returncode, facts["verdict"], facts["format"]) == (0, "valid", "gguf")
    (tmp_path / "cut.gguf").write_bytes(tiny.read_bytes()[:1000])
    cut = cli("validate", str(tmp_path / "cut.gguf"))
    assert cut.returncode == 1
    assert "rule gguf-truncated" in cut.stdout
    assert cli("validate", str(tmp_path / "none.gguf")).returncode == 2
