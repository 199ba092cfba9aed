"""A file of quantised weights stands for a model only if every block of it is that model's, rounded."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from enginebench_models import made_weights as module
from enginebench_models.catalogue import entry
from enginebench_models.checkpoint import Checkpoint, open_checkpoint
from enginebench_models.errors import InvalidModel
from enginebench_models.made_weights import made_weights
from enginebench_models.synthesis import synthesise
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from gguf.quants import quantize

Change = Callable[[str, np.ndarray], np.ndarray]


def requantised(source: Path, target: Path, kind: str, change: Change = lambda name, blocks: blocks) -> Path:
    """Written by the gguf library; `change` may alter the blocks of a tensor."""
    reader, writer = GGUFReader(source), GGUFWriter(target, "llama")
    for key, field in reader.fields.items():
        if not key.startswith(("GGUF.", "general.architecture")):
            writer.add_key_value(
                key, field.contents(), field.types[0], field.types[-1] if len(field.types) > 1 else None
            )
    for tensor in reader.tensors:
        values = tensor.data.astype(np.float32)
        if values.ndim == 1:
            writer.add_tensor(tensor.name, values)
            continue
        blocks = change(tensor.name, quantize(values, GGMLQuantizationType[kind]))
        writer.add_tensor(tensor.name, blocks, raw_dtype=GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_the_model_in_fewer_bits_is_believed(tiny: Checkpoint, tiny_gguf: Path, tmp_path: Path, kind: str) -> None:
    path = requantised(tiny_gguf, tmp_path / "made.gguf", kind)
    found = made_weights(path, tiny, tmp_path)
    assert found.config == tiny.config
    assert found.tensor("layers.0.mlp.up_proj").dtype == kind.lower()
    assert found.fingerprint != tiny.fingerprint


def test_one_altered_scale_in_the_middle_is_found(tiny: Checkpoint, tiny_gguf: Path, tmp_path: Path) -> None:
    """Engine and reference would both read it, so no comparison of logits shows it."""

    def one_scale_doubled(name: str, blocks: np.ndarray) -> np.ndarray:
        if name == "blk.1.ffn_up.weight":
            scale = blocks[100, 36:38].view(np.float16)  # the third block of 18 bytes
            scale *= 2
        return blocks

    path = requantised(tiny_gguf, tmp_path / "made.gguf", "Q4_0", one_scale_doubled)
    with pytest.raises(InvalidModel, match=r"layers\.1\.mlp\.up_proj is off by .*, q4_0 allows 0\.13"):
        made_weights(path, tiny, tmp_path)


def test_a_scale_that_is_no_number_is_found(tiny: Checkpoint, tiny_gguf: Path, tmp_path: Path) -> None:
    def one_nan(name: str, blocks: np.ndarray) -> np.ndarray:
        if name == "blk.0.attn_k.weight":
            blocks[3, :2].view(np.float16)[:] = np.nan
        return blocks

    path = requantised(tiny_gguf, tmp_path / "made.gguf", "Q8_0", one_nan)
    with pytest.raises(InvalidModel, match="is off by inf"):
        made_weights(path, tiny, tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_of_the_model_that_is_no_number_is_found(
    tiny: Checkpoint, tiny_gguf: Path, tmp_path: Path, value: float
) -> None:
    """Nothing is near it; a comparison with it is never true."""
    spoilt, place = tmp_path / "spoilt.gguf", tiny.tensor("layers.1.mlp.down_proj")
    content = bytearray(tiny_gguf.read_bytes())
    content[place.offset + 5000 : place.offset + 5002] = np.float16(value).tobytes()
    spoilt.write_bytes(content)
    path = requantised(tiny_gguf, tmp_path / "made.gguf", "Q8_0")
    with pytest.raises(InvalidModel, match=r"layers\.1\.mlp\.down_proj is off by inf"):
        made_weights(path, open_checkpoint(spoilt), tmp_path)


def test_another_model_of_the_same_shape_is_refused(tiny: Checkpoint, tmp_path: Path) -> None:
    other = synthesise(tiny.config, tmp_path / "other.gguf", seed=1)
    path = requantised(other, tmp_path / "made.gguf", "Q8_0")
    with pytest.raises(InvalidModel, match="in fewer bits: a weight of"):
        made_weights(path, tiny, tmp_path)


def test_the_same_weights_with_other_frequencies_are_refused(tiny: Checkpoint, tmp_path: Path) -> None:
    unscaled = synthesise(replace(entry("tiny").config, rope_scaling=None), tmp_path / "unscaled.gguf")
    with pytest.raises(InvalidModel, match=r"frequencies|shape"):
        made_weights(unscaled, tiny, tmp_path)


def test_a_broken_file_is_refused_by_its_own_rule(tiny: Checkpoint, tiny_gguf: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.gguf"
    path.write_bytes(tiny_gguf.read_bytes()[:100_000])
    with pytest.raises(InvalidModel):
        made_weights(path, tiny, tmp_path)


def test_an_answer_is_kept_for_these_very_bytes(
    tiny: Checkpoint, tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every byte counts: a fingerprint of both ends of a tensor would not see its middle."""
    path = requantised(tiny_gguf, tmp_path / "made.gguf", "Q8_0")
    first = made_weights(path, tiny, tmp_path)
    monkeypatch.setattr(module, "faults", lambda made, original: iter(["examined again"]))
    assert made_weights(path, tiny, tmp_path).fingerprint == first.fingerprint
    place = open_checkpoint(path).tensor("layers.2.mlp.up_proj")
    with path.open("r+b") as file:
        file.seek(place.offset + place.data.nbytes // 2)
        file.write(b"\x01")
    with pytest.raises(InvalidModel, match="examined again"):
        made_weights(path, tiny, tmp_path)
