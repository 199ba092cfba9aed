"""The Hugging Face copy of a checkpoint: the same model, written once, whole or not there."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from enginebench_models import hugging_face
from enginebench_models.checkpoint import Checkpoint, open_checkpoint
from enginebench_models.config import LlamaConfig
from enginebench_models.errors import NoRoom, UnsupportedModel
from enginebench_models.hugging_face import folder_of, written_folder

from .gguf_files import write_gguf


def silent(fraction: float) -> None:
    pass


def test_the_copy_of_a_gguf_file_is_the_same_model(tiny: Checkpoint, tmp_path: Path) -> None:
    fractions: list[float] = []
    copy = open_checkpoint(written_folder(tiny, tmp_path, fractions.append))
    assert copy.config == tiny.config
    assert copy.names() == tiny.names()
    assert np.allclose(copy.inverse_frequencies, tiny.inverse_frequencies, rtol=1e-6)
    for name in tiny.names():
        assert copy.tensor(name).dtype == "f16"
        assert np.array_equal(copy.tensor(name).float32(), tiny.tensor(name).float32()), name
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


def test_a_model_of_other_types_becomes_float16(odd_config: LlamaConfig, tmp_path: Path) -> None:
    source = open_checkpoint(write_gguf(tmp_path / "odd.gguf", odd_config))
    copy = open_checkpoint(written_folder(source, tmp_path / "cache", silent))
    for name in source.names():
        expected = source.tensor(name).float32().astype(np.float16).astype(np.float32)
        assert np.array_equal(copy.tensor(name).float32(), expected), name


def test_it_is_written_once(tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = written_folder(tiny, tmp_path, silent)
    monkeypatch.setattr(hugging_face, "write", lambda *_: pytest.fail("written again"))
    assert written_folder(tiny, tmp_path, silent) == first


def test_a_safetensors_model_is_its_own_folder(tiny_folder: Path, tmp_path: Path) -> None:
    assert folder_of(open_checkpoint(tiny_folder), tmp_path / "cache", silent) == tiny_folder
    assert not (tmp_path / "cache").exists()


def test_a_folder_with_another_model_in_it_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "both")
    checkpoint = open_checkpoint(folder)
    shutil.copy(folder / "model.safetensors", folder / "other.safetensors")
    with pytest.raises(UnsupportedModel, match=r"other\.safetensors"):
        folder_of(checkpoint, tmp_path / "cache", silent)


def test_a_copy_that_breaks_off_leaves_nothing(
    tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError("No space left on device")

    monkeypatch.setattr(hugging_face, "write_tensor", full)
    with pytest.raises(OSError, match="No space left"):
        written_folder(tiny, tmp_path, silent)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_too_small_is_noticed_before(
    tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(NoRoom, match=r"takes 0\.0 GB"):
        written_folder(tiny, tmp_path, silent)


def test_frequencies_that_no_config_can_name_are_refused(
    tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tiny.inverse_frequencies * np.float32(1.01)
    monkeypatch.setattr(type(tiny), "inverse_frequencies", other, raising=False)
    with pytest.raises(UnsupportedModel, match="RoPE frequencies"):
        written_folder(tiny, tmp_path, silent)
