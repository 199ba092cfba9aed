"""What kind of model a path holds: contents outrank names."""

import json
from pathlib import Path

import pytest
from enginebench_models.config import LlamaConfig
from enginebench_models.detect import check_model_type, detect_model_type, refuse_other_types
from enginebench_models.errors import ModelNotFound, ModelTypeMismatch, NotAModel, UnsupportedModel
from enginebench_models.store import locate

from .gguf_files import write_gguf


def with_config(folder: Path, model_type: str) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return folder


def test_contents_say_llama(tiny_gguf: Path, tiny_folder: Path) -> None:
    paths = [tiny_gguf, tiny_gguf.parent, tiny_folder, tiny_folder / "model.safetensors"]
    assert [detect_model_type(path) for path in paths] == ["llama"] * 4


@pytest.mark.parametrize("model_type", ["gpt2", "gpt_neox", "gpt_bigcode"])
def test_contents_say_gpt(tmp_path: Path, model_type: str) -> None:
    assert detect_model_type(with_config(tmp_path / "model", model_type)) == "gpt"


def test_contents_outrank_names(odd_config: LlamaConfig, tmp_path: Path) -> None:
    assert detect_model_type(write_gguf(tmp_path / "llama.gguf", odd_config, architecture="gpt2")) == "gpt"
    assert detect_model_type(with_config(tmp_path / "gpt2-folder", "llama")) == "llama"


def test_another_architecture_keeps_its_name(tmp_path: Path) -> None:
    assert detect_model_type(with_config(tmp_path / "model", "mistral")) == "mistral"


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("vocab.bpe", "gpt"),
        ("encoder.json", "gpt"),
        ("pytorch_model.bin", "gpt"),
        ("tokenizer.model", "llama"),
        ("consolidated.00.pth", "llama"),
    ],
)
def test_names_decide_where_contents_say_nothing(tmp_path: Path, file: str, expected: str) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / file).write_bytes(b"x")
    assert detect_model_type(tmp_path / "model") == expected


def test_a_mismatch_names_both_types(tiny_gguf: Path) -> None:
    check_model_type(tiny_gguf, "llama")
    with pytest.raises(ModelTypeMismatch, match="Model type mismatch: Expected 'gpt' but detected 'llama'"):
        check_model_type(tiny_gguf, "gpt")


def test_what_is_no_model_is_not_given_a_type(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(NotAModel, match=r"notes\.txt"):
        detect_model_type(tmp_path / "notes.txt")
    with pytest.raises(ModelNotFound, match="nowhere"):
        detect_model_type(tmp_path / "nowhere")


def test_a_gpt_folder_is_refused_by_name_however_it_is_recognised(tmp_path: Path, odd_config: LlamaConfig) -> None:
    by_config = with_config(tmp_path / "model", "gpt2")
    (by_config / "model.safetensors").write_bytes(b"x")
    by_names = tmp_path / "checkpoint"
    by_names.mkdir()
    for name in ("vocab.bpe", "encoder.json", "pytorch_model.bin"):
        (by_names / name).write_bytes(b"x")
    gguf = write_gguf(tmp_path / "model.gguf", odd_config, architecture="gptneox")
    for path in (by_config, by_names, gguf):
        with pytest.raises(UnsupportedModel, match="holds a GPT model: it is recognised, but only LLaMA") as caught:
            locate(str(path))
        assert caught.value.rule == "architecture"


def test_another_model_is_refused_under_its_own_name_and_llama_is_not(tmp_path: Path, tiny_folder: Path) -> None:
    with pytest.raises(UnsupportedModel, match="holds a mistral model"):
        refuse_other_types(with_config(tmp_path / "model", "mistral"))
    refuse_other_types(tiny_folder)


@pytest.mark.parametrize(
    ("detected", "remedy"), [("llama", "--model-type llama"), ("gpt", "Only LLaMA models are run")]
)
def test_a_mismatch_says_what_can_be_done(detected: str, remedy: str) -> None:
    assert remedy in str(ModelTypeMismatch("other", detected, "m"))
