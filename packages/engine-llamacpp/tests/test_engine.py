"""What the engine answers, reports and refuses, on a small model."""

from __future__ import annotations

import ctypes
import sys
import tomllib
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_contract import (
    SAMPLINGS,
    check_that_a_given_up_request_leaves_nothing,
    check_that_ids_are_drawn_from_the_scored_rows,
)
from engine_llamacpp.engine import LlamacppEngine
from enginebench_models.catalogue import entry
from enginebench_models.checkpoint import open_checkpoint
from enginebench_models.synthesis import synthesise
from enginebench_protocol.engine import Sampling
from enginebench_protocol.errors import EngineFailure
from gguf import GGUFWriter

PACKAGE = Path(__file__).parents[1]
PROMPT = array("i", [5, 900, 3, 77, 1])


def test_generate_yields_exactly_the_number_of_ids_asked_for(ready: Any) -> None:
    for n_gen in (1, 2, 17):
        ids = list(ready.engine.generate(PROMPT, n_gen))
        assert len(ids) == n_gen
        assert all(type(token) is int and 0 <= token < ready.report.vocab_size for token in ids)


def test_end_of_sequence_ends_nothing(ready: Any) -> None:
    """The model answers nearly every prompt with special tokens, its end-of-sequence ids among them."""
    from engine_llamacpp.model import native

    vocabulary = ready.engine._model.vocabulary
    ends = [token for token in range(ready.report.vocab_size) if native.llama_vocab_is_eog(vocabulary, token)]
    assert ends
    for end in ends:
        assert len(list(ready.engine.generate(array("i", [end, end]), 9))) == 9


def test_nothing_of_an_earlier_prompt_is_reused(ready: Any) -> None:
    other = array("i", [6, *PROMPT[1:]])
    alone = list(ready.engine.generate(other, 20))
    list(ready.engine.generate(PROMPT, 20))
    assert list(ready.engine.generate(other, 20)) == alone
    assert list(ready.engine.generate(PROMPT, 20)) != alone


@pytest.mark.parametrize("n_prompt", [1, 31, 32, 100, 255])
def test_generated_ids_are_the_largest_scored_logits(ready: Any, n_prompt: int) -> None:
    prompt = array("i", [(7 * i) % 4096 for i in range(n_prompt)])
    ids = list(ready.engine.generate(prompt, 2))
    scored = np.asarray(ready.engine.score(prompt + array("i", ids[:-1]), n_prompt))
    assert scored.argmax(axis=1).tolist() == ids


def test_choosing_in_the_graph_as_on_a_gpu_gives_the_same_ids_and_logits(ready: Any) -> None:
    from engine_llamacpp.model import Sequence

    expected = list(ready.engine.generate(PROMPT, 12)), np.asarray(ready.engine.score(PROMPT, 3))
    engine = LlamacppEngine()
    engine._sequence = Sequence(ready.engine._model, 128, 1, choose_in_graph=True)
    for _ in range(2):  # score detaches the sampler and attaches another
        assert list(engine.generate(PROMPT, 12)) == expected[0]
        np.testing.assert_array_equal(np.asarray(engine.score(PROMPT, 3)), expected[1])
    engine.unload()


def test_a_prompt_longer_than_one_chunk_is_whole(engine: LlamacppEngine, loader: Callable[..., Any], odd: Path) -> None:
    loader(engine, odd, n_ctx=700)
    tokens = array("i", [(11 * i) % 1003 for i in range(600)])
    at_once = np.asarray(engine.score(tokens, 600))[0]
    in_steps = np.asarray(engine.score(tokens, 100))[-1]
    np.testing.assert_allclose(at_once, in_steps, atol=0.05)
    assert not np.allclose(at_once, np.asarray(engine.score(tokens[88:], 512))[0], atol=0.05)


def test_scores_are_float32_rows_of_the_vocabulary(ready: Any) -> None:
    scored = memoryview(ready.engine.score(PROMPT, 3))
    assert (scored.shape, scored.format, scored.c_contiguous) == ((3, ready.report.vocab_size), "f", True)


def test_llama_cpp_logs_nothing_while_tokens_are_made(ready: Any) -> None:
    """A log line is a call into Python."""
    from engine_llamacpp.library import log

    list(ready.engine.generate(PROMPT, 2))
    log().clear()
    list(ready.engine.generate(PROMPT, 40))
    assert not log()._lines


def test_the_report_is_what_the_tensors_are(ready: Any) -> None:
    config, report = open_checkpoint(ready.path).config, ready.report
    float32_vectors = (2 * config.n_layers + 1) * config.dim
    divisors = 4 * config.head_dim // 2
    assert (report.weight_dtype, report.activation_dtype, report.kv_dtype) == ("float16", "float32", "float16")
    assert report.precision == "16-bit"
    assert report.weights_bytes == 2 * (config.weight_elements() + float32_vectors) + divisors
    assert report.read_bytes_per_token == report.weights_bytes  # tied: the table is the output projection
    assert report.n_ctx == 256  # 128 asked for, llama.cpp rounds up
    assert report.kv_cache_bytes == 256 * config.kv_bytes_per_token(2)
    assert (report.threads, report.device, report.vocab_size) == (1, "CPU", 4096)
    assert report.weights_fingerprint == open_checkpoint(ready.path).fingerprint
    assert set(report.stages) == {"import", "read", "compile"}
    assert report.versions["llama-cpp-python"] == "0.3.36"


def test_every_layer_uses_flash_attention(ready: Any) -> None:
    assert ready.engine._held.flash_attention_layers == open_checkpoint(ready.path).config.n_layers


def test_the_number_of_threads_is_the_one_asked_for(
    engine: LlamacppEngine, loader: Callable[..., Any], tiny: Path
) -> None:
    assert loader(engine, tiny, threads=2).threads == 2


def test_an_untied_model_does_not_read_its_embedding_table_for_each_token(
    engine: LlamacppEngine, loader: Callable[..., Any], odd: Path
) -> None:
    report = loader(engine, odd)
    table = open_checkpoint(odd).tensor("embed_tokens").data.nbytes
    assert report.read_bytes_per_token == report.weights_bytes - table
    assert report.weights_bytes == sum(open_checkpoint(odd).tensor(n).data.nbytes for n in open_checkpoint(odd).names())


def test_llama_cpp_was_compiled_for_this_processor(ready: Any) -> None:
    """SOURCE_DATE_EPOCH in the environment of the build would have switched GGML_NATIVE off."""
    flags = Path("/proc/cpuinfo").read_text().split("flags", 1)[1].split("\n", 1)[0].split()
    for flag, name in {"avx2": "AVX2", "fma": "FMA", "f16c": "F16C", "avx512f": "AVX512"}.items():
        assert (f"{name} = 1" in ready.report.versions["instructions"]) == (flag in flags)


def test_memory_accounts_for_weights_cache_and_the_rest(ready: Any) -> None:
    account = ready.engine.memory()
    assert account.weights_bytes == ready.report.weights_bytes
    assert account.kv_cache_bytes == ready.report.kv_cache_bytes
    assert 0 < account.workspace_bytes < 16 << 20


def test_load_may_follow_unload(engine: LlamacppEngine, loader: Callable[..., Any], odd: Path) -> None:
    loader(engine, odd)
    expected = list(engine.generate(PROMPT, 8))
    engine.unload()
    with pytest.raises(EngineFailure, match="no model is loaded"):
        list(engine.generate(PROMPT, 1))
    loader(engine, odd)
    assert list(engine.generate(PROMPT, 8)) == expected


@pytest.mark.parametrize(("gpus", "mode", "shares"), [(0, 0, None), (1, 0, None), (3, 1, [1.0, 1.0, 1.0, 0.0])])
def test_several_gpus_get_as_many_layers_each(
    ready: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch, gpus: int, mode: int, shares: list[float] | None
) -> None:
    """llama.h: split modes none 0 and layer 1. No GPU here: what llama.cpp is told is looked at instead."""
    from engine_llamacpp import library, model

    told: list[Any] = []

    def refuse(path: bytes, parameters: Any) -> None:
        told.append((parameters.split_mode, parameters.tensor_split[:4] if parameters.tensor_split else None))

    monkeypatch.setattr(model.native, "llama_max_devices", lambda: 16)
    monkeypatch.setattr(model.native, "llama_model_load_from_file", refuse)
    with pytest.raises(model.Refused):
        model.Model(tiny, gpus, lambda fraction: None)
    assert told == [(mode, shares)]
    assert (library.gpu_count() > 0) == library.has_gpu()


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"device": "cuda"}, "unsupported", "no device 'cuda'"),
        ({"device": "tpu"}, "unsupported", "no device 'tpu'"),
        ({"shards": 2}, "unsupported", "a CPU is one device"),
        ({"n_ctx": 131073}, "bad-request", "n_ctx 131073 exceeds the model's context of 131072"),
        ({"model_path": "nowhere.gguf"}, "bad-model", "nowhere.gguf"),
    ],
)
def test_a_load_that_cannot_be_done_says_why(
    engine: LlamacppEngine, loader: Callable[..., Any], tiny: Path, changes: dict[str, Any], code: str, message: str
) -> None:
    from engine_llamacpp.library import has_gpu

    if changes.get("device") == "cuda" and has_gpu():
        pytest.skip("there is a GPU")
    with pytest.raises(EngineFailure, match=message) as failure:
        loader(engine, tiny, **changes)
    assert failure.value.code == code


def test_safetensors_are_unsupported(engine: LlamacppEngine, loader: Callable[..., Any], tmp_path: Path) -> None:
    folder = synthesise(entry("tiny").config, tmp_path / "tiny", "safetensors")
    with pytest.raises(EngineFailure, match=r"llama\.cpp reads GGUF") as failure:
        loader(engine, folder)
    assert failure.value.code == "unsupported"


def test_another_architecture_is_refused_before_llama_cpp_sees_it(
    engine: LlamacppEngine, loader: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp would run it."""
    writer = GGUFWriter(tmp_path / "other.gguf", "gpt2")
    writer.add_block_count(1)
    writer.add_tensor("token_embd.weight", np.zeros((8, 8), np.float32))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    monkeypatch.setattr("engine_llamacpp.model.Model.__init__", lambda *_: pytest.fail("llama.cpp was asked"))
    with pytest.raises(EngineFailure, match="but detected 'gpt") as failure:
        loader(engine, tmp_path / "other.gguf")
    assert failure.value.code == "bad-model"


def test_what_llama_cpp_itself_refuses_comes_with_the_reason_from_its_log(
    engine: LlamacppEngine, loader: Callable[..., Any], tiny: Path, tmp_path: Path
) -> None:
    """A vocabulary that our reader leaves alone until text is asked for."""
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(tiny.read_bytes().replace(b"tokenizer.ggml.merges", b"tokenizer.ggml.merged", 1))
    with pytest.raises(EngineFailure, match=r"llama\.cpp: .*merges") as failure:
        loader(engine, broken)
    assert failure.value.code == "bad-model"


def test_a_library_that_does_not_load_is_unsupported(
    engine: LlamacppEngine, loader: Callable[..., Any], tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("libcuda.so.1: cannot open shared object file")

    for name in [n for n in sys.modules if n.partition(".")[0] == "llama_cpp" or n == "engine_llamacpp.library"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(ctypes, "CDLL", refuse)
    with pytest.raises(EngineFailure, match=r"cannot be loaded: .*libcuda\.so\.1") as failure:
        loader(engine, tiny)
    assert failure.value.code == "unsupported"


def test_the_table_in_pyproject_names_the_configurations_of_the_class() -> None:
    table = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["tool"]["enginebench"]["engine"]
    found = {name: facts["description"] for name, facts in table["configurations"].items()}
    assert found == dict(LlamacppEngine.configurations)


def test_sampled_ids_are_drawn_from_the_logits_of_score(ready: Any) -> None:
    check_that_ids_are_drawn_from_the_scored_rows(ready.engine, PROMPT)


@SAMPLINGS
def test_a_request_that_was_given_up_leaves_nothing(ready: Any, sampling: Sampling) -> None:
    check_that_a_given_up_request_leaves_nothing(ready.engine, PROMPT, sampling)
