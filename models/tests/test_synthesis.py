"""Synthetic models: the same bytes everywhere, exact in both 16-bit formats, whole or not there."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from enginebench_models import synthesis, synthetic_weights
from enginebench_models.catalogue import entry
from enginebench_models.checkpoint import Checkpoint, open_checkpoint
from enginebench_models.config import LlamaConfig
from enginebench_models.errors import InvalidModel, NoRoom, UnsupportedModel
from enginebench_models.layout import expected_shapes
from enginebench_models.synthesis import synthesise
from enginebench_models.synthetic_weights import chunks, normal_table, quantiles, representable
from gguf import GGUFReader
from safetensors import safe_open

# Of the weights of `tiny`, seed 0. When this changes, RECIPE in synthetic_weights.py has to rise.
TINY_WEIGHTS_SHA256 = "9ae2a531e3f722b462fd35c3f3af85db7fee60e15e11400d23a07b3f3b4972f3"
RECIPE_OF_THE_HASH = 3


def weights_hash(config: LlamaConfig, seed: int = 0) -> str:
    digest = hashlib.sha256()
    for name in expected_shapes(config):
        for chunk in chunks(config, name, seed, bfloat16=False):
            digest.update(chunk.astype("<u2").tobytes())
    return digest.hexdigest()


def test_the_weights_of_a_recipe_never_change(tiny_config: LlamaConfig) -> None:
    assert (synthetic_weights.RECIPE, weights_hash(tiny_config)) == (RECIPE_OF_THE_HASH, TINY_WEIGHTS_SHA256)


def test_the_same_seed_gives_the_same_file(tiny_config: LlamaConfig, tiny_gguf: Path, tmp_path: Path) -> None:
    again = synthesise(tiny_config, tmp_path / "again.gguf")
    assert again.read_bytes() == tiny_gguf.read_bytes()


def test_another_seed_gives_other_weights(tiny_config: LlamaConfig) -> None:
    assert weights_hash(tiny_config, seed=1) != weights_hash(tiny_config)


def test_every_value_is_exact_in_float16_and_in_bfloat16(tiny: Checkpoint) -> None:
    for name in tiny.names():
        values = tiny.tensor(name).float32()
        assert np.array_equal(values.astype(np.float16).astype(np.float32), values), name
        assert not (values.view(np.uint32) & 0xFFFF).any(), name


@pytest.mark.parametrize("std", [1.0, 0.02, 3e-4, 1e-6])
def test_a_table_has_the_deviation_asked_for(std: float) -> None:
    values = normal_table(std, bfloat16=False).view(np.float16).astype(np.float64)
    assert values.std() == pytest.approx(std, rel=5e-3)
    assert abs(values.mean()) < std / 1000


def test_representable_rounds_to_the_nearest_such_number() -> None:
    assert representable(np.array([1.0, 1.003, 1.0059, -0.1])).tolist() == [1.0, 1.0, 1.0078125, -0.10009765625]
    assert representable(np.array([2.0**-24 * 3.4, 2.0**-25 * 0.9])).tolist() == [2.0**-24 * 3, 0.0]


def test_quantiles_are_those_of_the_normal_distribution() -> None:
    found = quantiles()
    assert found.size == 65536
    assert np.array_equal(found, -found[::-1])
    assert found.std() == pytest.approx(1.0, abs=1e-3)
    assert np.count_nonzero(np.abs(found) < 1.0) / 65536 == pytest.approx(0.6827, abs=1e-4)


def test_the_gguf_and_safetensors_libraries_read_the_files(tiny_gguf: Path, tiny_folder: Path) -> None:
    tensors = {tensor.name: tensor.data for tensor in GGUFReader(tiny_gguf).tensors}
    ours = open_checkpoint(tiny_gguf)
    assert np.array_equal(tensors["blk.3.ffn_down.weight"], ours.tensor("layers.3.mlp.down_proj").data)
    with safe_open(tiny_folder / "model.safetensors", framework="numpy") as file:
        assert len(file.keys()) == len(ours.names())
        assert file.get_slice("model.norm.weight").get_shape() == [256]


def test_synthetic_models_say_so(tiny: Checkpoint, tiny_folder: Path) -> None:
    assert tiny.synthetic
    assert open_checkpoint(tiny_folder).synthetic


def test_a_failure_leaves_nothing_behind(
    tiny_config: LlamaConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError("disk error")

    target = tmp_path / "tiny.gguf"
    target.write_text("the old file")
    monkeypatch.setattr(synthesis, "write_chunks", broken)
    with pytest.raises(OSError, match="disk error"):
        synthesise(tiny_config, target)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.gguf"]
    assert target.read_text() == "the old file"


def test_an_existing_folder_is_replaced_whole(tiny_config: LlamaConfig, tiny_folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "tiny"
    target.mkdir()
    (target / "left over").touch()
    synthesise(tiny_config, target, "safetensors")
    assert sorted(p.name for p in target.iterdir()) == sorted(p.name for p in tiny_folder.iterdir())


def test_a_model_larger_than_the_disk_is_refused_before_it_is_written(tmp_path: Path) -> None:
    with pytest.raises(NoRoom, match=r"811\.\d GB"):
        synthesise(entry("llama3-405b").config, tmp_path / "big.gguf")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_made_is_refused(tiny_config: LlamaConfig, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="'onnx'"):
        synthesise(tiny_config, tmp_path / "m", "onnx")
    small = LlamaConfig(**(tiny_config.__dict__ | {"vocab_size": 300}))
    with pytest.raises(InvalidModel, match="300"):
        synthesise(small, tmp_path / "m.gguf")
    assert not list(tmp_path.iterdir())
