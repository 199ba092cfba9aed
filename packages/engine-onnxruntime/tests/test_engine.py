"""What the engine answers, reports and refuses, on a small model."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_contract import (
    SAMPLINGS,
    check_that_a_given_up_request_leaves_nothing,
    check_that_ids_are_drawn_from_the_scored_rows,
)
from engine_onnxruntime.engine import OnnxruntimeEngine
from enginebench_models.checkpoint import open_checkpoint
from enginebench_protocol.engine import Sampling
from enginebench_protocol.errors import EngineFailure

PACKAGE = Path(__file__).parents[1]
PROMPT = array("i", [5, 900, 3, 77, 1])
CONFIGURATIONS = list(OnnxruntimeEngine.configurations)

LOAD_AND_GENERATE = """
import sys
from array import array
from engine_onnxruntime.engine import OnnxruntimeEngine
from enginebench_protocol.messages import Load
engine = OnnxruntimeEngine()
engine.load(Load(id=1, configuration=sys.argv[3], model_path=sys.argv[1], n_ctx=64, device="cpu", threads=1,
                 cache=sys.argv[2], scratch=sys.argv[2]), lambda stage, fraction: None)
print(*engine.generate(array("i", [5, 900, 3]), 8))
"""


@pytest.fixture(params=CONFIGURATIONS)
def ready(load: Any, paths: dict[str, Path], request: pytest.FixtureRequest) -> Any:
    return load(paths["tiny.gguf"], request.param)


def test_generate_yields_exactly_the_number_of_ids_asked_for(ready: Any) -> None:
    for n_gen in (1, 2, 17):
        ids = list(ready.engine.generate(PROMPT, n_gen))
        assert len(ids) == n_gen
        assert all(type(token) is int and 0 <= token < ready.report.vocab_size for token in ids)


def test_nothing_of_an_earlier_request_is_reused(ready: Any) -> None:
    first = list(ready.engine.generate(PROMPT, 20))
    list(ready.engine.generate(array("i", range(100)), 5))
    assert list(ready.engine.generate(PROMPT, 20)) == first
    other = array("i", [6, *PROMPT[1:]])
    assert list(ready.engine.generate(other, 20)) != first
    assert list(ready.engine.generate(PROMPT, 20)) == first


@pytest.mark.parametrize("n_prompt", [1, 2, 33, 100])
def test_generated_ids_are_the_largest_scored_logits(ready: Any, n_prompt: int) -> None:
    prompt = array("i", [(7 * i) % 4096 for i in range(n_prompt)])
    ids = list(ready.engine.generate(prompt, 6))
    scored = np.asarray(ready.engine.score(prompt + array("i", ids[:-1]), n_prompt))
    assert scored.argmax(axis=1).tolist() == ids


def test_no_id_ends_a_request(ready: Any) -> None:
    """The model is made so that it repeats one id for long; that id being an end would show."""
    chosen = list(ready.engine.generate(PROMPT, 100))
    assert len(chosen) == 100


def test_scores_are_float32_rows_of_the_vocabulary(ready: Any) -> None:
    scored = memoryview(ready.engine.score(PROMPT, 3))
    assert (scored.shape, scored.format, scored.c_contiguous) == ((3, ready.report.vocab_size), "f", True)


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_the_whole_context_can_be_used_and_not_one_position_more(
    load: Any, paths: dict[str, Path], configuration: str
) -> None:
    engine = load(paths["tiny.gguf"], configuration, n_ctx=20).engine
    assert len(list(engine.generate(PROMPT, 16))) == 16
    with pytest.raises(EngineFailure, match="21 positions exceed the 20"):
        list(engine.generate(PROMPT, 17))
    with pytest.raises(EngineFailure, match="21 positions exceed the 20"):
        engine.score(array("i", range(21)), 5)


@pytest.mark.parametrize(("configuration", "weight"), [("default", "float16"), ("float32", "float32")])
def test_the_report_is_what_the_session_holds(
    load: Any, paths: dict[str, Path], configuration: str, weight: str
) -> None:
    ready = load(paths["odd.gguf"], configuration)
    report, config = ready.report, open_checkpoint(ready.path).config
    item_bytes = np.dtype(weight).itemsize
    norms, table = (2 * config.n_layers + 1) * config.dim, config.vocab_size * config.dim
    assert (report.weight_dtype, report.activation_dtype, report.kv_dtype) == (weight, "float32", "float32")
    assert report.read_bytes_per_token == item_bytes * config.read_elements_per_token() + (4 - item_bytes) * norms
    assert report.weights_bytes == report.read_bytes_per_token + 2 * table  # float16, in the file
    assert report.kv_cache_bytes == 128 * config.kv_bytes_per_token(4)
    assert report.threads == 2
    assert report.weights_fingerprint == open_checkpoint(ready.path).fingerprint
    assert set(report.stages) == {"import", "read", "compile"}
    assert report.versions["onnxruntime"] == "1.31.1"


def test_bfloat16_weights_stay_bfloat16(load: Any, paths: dict[str, Path]) -> None:
    path = paths["tiny.safetensors"]
    stored = open_checkpoint(path).tensor("embed_tokens").dtype
    assert load(path).report.weight_dtype == {"bf16": "bfloat16", "f16": "float16"}[stored]


def test_memory_accounts_for_weights_and_cache(ready: Any) -> None:
    account = ready.engine.memory()
    assert account.weights_bytes == ready.report.weights_bytes
    assert account.kv_cache_bytes == ready.report.kv_cache_bytes


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_unload_forgets_the_model_and_load_may_follow(load: Any, paths: dict[str, Path], configuration: str) -> None:
    ready = load(paths["tiny.gguf"], configuration)
    expected = list(ready.engine.generate(PROMPT, 8))
    ready.engine.unload()
    with pytest.raises(EngineFailure, match="no model is loaded"):
        list(ready.engine.generate(PROMPT, 1))
    assert list(load(ready.path, configuration).engine.generate(PROMPT, 8)) == expected


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"device": "tpu"}, "unsupported", "device 'tpu'"),
        ({"device": "cuda"}, "unsupported", "device 'cuda'.*CPUExecutionProvider"),
        ({"configuration": "int3"}, "unsupported", "no configuration 'int3'"),
        ({"n_ctx": 131073}, "bad-request", "n_ctx 131073 exceeds the model's context of 131072"),
        ({"path": Path("nowhere.gguf")}, "bad-model", "nowhere.gguf"),
    ],
)
def test_a_load_that_cannot_be_done_says_why(
    load: Any,
    paths: dict[str, Path],
    changes: dict[str, Any],
    code: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(EngineFailure, match=message) as failure:
        load(**{"path": paths["tiny.gguf"], **changes})
    assert failure.value.code == code


def test_heads_that_the_attention_operator_does_not_take_are_unsupported(load: Any, paths: dict[str, Path]) -> None:
    with pytest.raises(EngineFailure, match=r"head_dim 40.*multiple of 16") as failure:
        load(paths["narrow-heads.gguf"])
    assert failure.value.code == "unsupported"


def test_genai_says_that_it_reads_no_quantised_file(load: Any, quantised: Path) -> None:
    with pytest.raises(EngineFailure, match="use onnxruntime:default") as failure:
        load(quantised, "genai")
    assert failure.value.code == "unsupported"


def test_a_model_that_is_not_llama_is_refused(load: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}')
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(EngineFailure) as failure:
        load(tmp_path)
    assert failure.value.code == "bad-model"


def test_a_session_that_cannot_be_made_is_a_failure_with_the_reason(
    load: Any, paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine_onnxruntime.model.MICROSOFT", "no.such.domain")
    with pytest.raises(EngineFailure, match=r"no\.such\.domain") as failure:
        load(paths["odd.gguf"])
    assert failure.value.code == "compile"


@pytest.mark.parametrize("tokens", [[], [-1], [4096]])
def test_tokens_outside_the_vocabulary_are_refused(ready: Any, tokens: list[int]) -> None:
    with pytest.raises(EngineFailure, match="from 0 to 4095") as failure:
        list(ready.engine.generate(array("i", tokens), 1))
    assert failure.value.code == "bad-request"


def test_a_model_behind_a_link_is_read(load: Any, paths: dict[str, Path], tmp_path: Path) -> None:
    link = tmp_path / "link.gguf"
    link.symlink_to(paths["tiny.gguf"])
    for configuration in CONFIGURATIONS:
        assert len(list(load(link, configuration).engine.generate(PROMPT, 2))) == 2


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_the_library_leaves_no_telemetry_files(paths: dict[str, Path], tmp_path: Path, configuration: str) -> None:
    home, scratch = tmp_path / "home", tmp_path / "scratch"
    home.mkdir()
    scratch.mkdir()
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home), "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-c", LOAD_AND_GENERATE, str(paths["tiny.gguf"]), str(scratch), configuration]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert len(done.stdout.split()) == 8
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_importing_the_engine_imports_no_onnxruntime_and_sets_nothing() -> None:
    code = (
        "import os, sys; before = dict(os.environ); import engine_onnxruntime.engine;"
        "assert dict(os.environ) == before; "
        "assert not {'onnxruntime', 'onnxruntime_genai', 'onnx'} & sys.modules.keys()"
    )
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


def test_the_table_in_pyproject_names_the_configurations_of_the_class() -> None:
    table = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["tool"]["enginebench"]["engine"]
    found = {name: facts["description"] for name, facts in table["configurations"].items()}
    assert found == dict(OnnxruntimeEngine.configurations)


def test_sampled_ids_are_drawn_from_the_logits_of_score(ready: Any) -> None:
    check_that_ids_are_drawn_from_the_scored_rows(ready.engine, PROMPT)


@SAMPLINGS
def test_a_request_that_was_given_up_leaves_nothing(ready: Any, sampling: Sampling) -> None:
    check_that_a_given_up_request_leaves_nothing(ready.engine, PROMPT, sampling)
