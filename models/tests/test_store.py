"""From a name or a path to a model on disk."""

from pathlib import Path

import numpy as np
import pytest
from enginebench_models.checkpoint import open_checkpoint
from enginebench_models.config import LlamaConfig
from enginebench_models.errors import ModelNotFound, NotAModel
from enginebench_models.fidelity import probe_ids
from enginebench_models.reference import Reference
from enginebench_models.store import LocalModels, locate, made, place

from .gguf_files import write_gguf


def test_a_name_without_real_files_becomes_a_synthetic_model_once(tmp_path: Path) -> None:
    first = locate("tiny", "auto", tmp_path)
    assert (first.name, first.weights, first.path.suffix) == ("tiny", "synthetic", ".gguf")
    assert "no real weights" in first.note
    written = first.path.stat().st_mtime_ns
    assert locate("tiny", "synthetic", tmp_path).path == first.path
    assert first.path.stat().st_mtime_ns == written
    assert open_checkpoint(first.path).config == first.config


def test_real_files_are_taken_when_they_are_there_unless_synthetic_is_asked_for(
    odd_config: LlamaConfig, tmp_path: Path
) -> None:
    (tmp_path / "tiny").mkdir()
    write_gguf(tmp_path / "tiny" / "m.gguf", odd_config)
    assert locate("tiny", "auto", tmp_path).weights == "real"
    assert locate("tiny", "real", tmp_path).path == tmp_path / "tiny"
    assert locate("tiny", "synthetic", tmp_path).weights == "synthetic"


def test_real_weights_that_are_not_here_are_refused_with_where_they_are(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"llama3-8b.*Salesforce/LLaMA-3-8B.*--weights synthetic"):
        locate("llama3-8b", "real", tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_synthetic_takes_the_place_of_real_weights_that_are_gone(
    odd_config: LlamaConfig, tmp_path: Path
) -> None:
    for name in ("tiny", str(tmp_path / "mine.gguf")):
        real = write_gguf(tmp_path / name, odd_config)
        found = place(name, "auto", tmp_path)
        assert found.weights == "real"
        real.unlink()
        with pytest.raises(ModelNotFound, match="is gone"):
            made(found)
    assert not list(tmp_path.iterdir())


def test_a_path_is_opened_and_a_synthetic_file_admits_it(
    tiny_gguf: Path, odd_config: LlamaConfig, tmp_path: Path
) -> None:
    assert locate(str(tiny_gguf)).weights == "synthetic"
    folder = tmp_path / "Llama-3.2-mine"
    folder.mkdir()
    write_gguf(folder / "m.gguf", odd_config)
    found = locate(str(folder))
    assert (found.name, found.weights, found.config) == ("Llama-3.2-mine", "real", odd_config)


def test_names_and_paths_that_are_not_there_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"No model is called 'tyni': did you mean 'tiny'\? The catalogue has tiny"):
        locate("tyni", "auto", tmp_path)
    with pytest.raises(ModelNotFound, match="no file or directory"):
        locate(str(tmp_path / "absent.gguf"))
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(NotAModel, match="empty"):
        locate(str(tmp_path / "empty.gguf"))


def test_local_models_serves_an_engines_commands(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    models = LocalModels()
    path, name, weights = models.locate(str(tiny_gguf), "auto")
    assert (path, name, weights) == (tiny_gguf, "tiny", "synthetic")
    assert models.decode(path, models.encode(path, "some text")) == "some text"
    tokens = models.probe(path, 8, 4)
    assert tokens == probe_ids(4096, 12)
    logits = Reference(open_checkpoint(path)).logits(tokens, range(7, 12))
    np.save(tmp_path / "logits.npy", logits)
    found = models.compare(path, tokens, 8, tmp_path / "logits.npy", "float32")
    assert found["passed"] is True
    np.save(tmp_path / "logits.npy", logits + 1)
    found = models.compare(path, tokens, 8, tmp_path / "logits.npy", "float32")
    assert found["passed"] is False
    assert "largest logit error" in str(found["reasons"])
