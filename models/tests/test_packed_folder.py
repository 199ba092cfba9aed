"""The quantised folder: the recipe's own numbers in the form that is packed, written once, whole or not there."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from enginebench_models import packed_folder as writing
from enginebench_models.checkpoint import Checkpoint
from enginebench_models.errors import NoRoom, UnsupportedModel
from enginebench_models.hugging_face import HEADER_BYTES
from enginebench_models.packed_folder import FORMS, packed, packed_folder, parts
from enginebench_models.quantisation import QuantisedWeights, is_quantised

SMALLEST_STEP = 127 * 2**-25
"""Scales below 2^-14 are subnormal in float16: half a step of theirs, times the largest code."""


def silent(fraction: float) -> None:
    pass


def stored(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Read with nothing but the format's description."""
    raw = (folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    kinds = {"F16": np.float16, "I32": np.int32, "I64": np.int64}
    entries = json.loads(raw[8 : 8 + length])
    entries.pop("__metadata__")
    body = raw[8 + length :]
    assert max(entry["data_offsets"][1] for entry in entries.values()) == len(body)
    return {
        name: np.frombuffer(body[slice(*entry["data_offsets"])], kinds[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in entries.items()
    }


def restored(tensors: dict[str, np.ndarray[Any, Any]], name: str, bits: int) -> np.ndarray[Any, Any]:
    """As a reader does it: shift and mask, take the half range off, times the scale of the group."""
    words, scales = tensors[f"{name}_packed"].view(np.uint32), tensors[f"{name}_scale"].astype(np.float32)
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    codes = (words[..., None] >> shifts & (2**bits - 1)).reshape(len(words), -1).astype(np.int32) - 2 ** (bits - 1)
    assert codes.shape == tuple(tensors[f"{name}_shape"])
    return codes * np.repeat(scales, codes.shape[1] // scales.shape[1], axis=1)


@pytest.mark.parametrize("kind", FORMS)
def test_the_folder_holds_the_numbers_of_the_recipe(tiny: Checkpoint, tmp_path: Path, kind: str) -> None:
    fractions: list[float] = []
    tensors = stored(packed_folder(tiny, kind, tmp_path, 2, fractions.append))
    recipe = QuantisedWeights(tiny, kind)
    for name in tiny.names():
        there = "lm_head.weight" if name == "lm_head" else f"model.{name}.weight"
        if not is_quantised(name, tiny.tensor(name).shape):
            assert np.array_equal(tensors[there].astype(np.float32), tiny.tensor(name).float32()), name
            continue
        expected = recipe.tensor(name).float32()
        found = restored(tensors, there, FORMS[kind].bits)
        np.testing.assert_allclose(found, expected, rtol=2**-11, atol=SMALLEST_STEP, err_msg=name)
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


@pytest.mark.parametrize("kind", FORMS)
def test_exchanged_nibbles_or_bytes_would_show(
    tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The negative control."""
    monkeypatch.setattr(writing, "packed", lambda codes, bits: packed(np.ascontiguousarray(codes[:, ::-1]), bits))
    tensors = stored(packed_folder(tiny, kind, tmp_path, 2, silent))
    name = "layers.0.self_attn.k_proj"
    expected = QuantisedWeights(tiny, kind).tensor(name).float32()
    assert not np.allclose(restored(tensors, f"model.{name}.weight", FORMS[kind].bits), expected, atol=1e-3)


def test_config_json_says_how_it_is_packed(tiny: Checkpoint, tmp_path: Path) -> None:
    found = json.loads((packed_folder(tiny, "int4", tmp_path, 2, silent) / "config.json").read_text())
    told = found["quantization_config"]
    assert (told["quant_method"], told["format"], told["ignore"]) == (
        "compressed-tensors",
        "pack-quantized",
        ["lm_head"],
    )
    weights = told["config_groups"]["group_0"]["weights"]
    assert (weights["num_bits"], weights["strategy"], weights["group_size"]) == (4, "group", 32)


def test_each_kind_is_written_once(tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = packed_folder(tiny, "int4", tmp_path, 2, silent)
    assert packed_folder(tiny, "int8", tmp_path, 2, silent) != first
    monkeypatch.setattr(writing, "write", lambda *_: pytest.fail("written again"))
    assert packed_folder(tiny, "int4", tmp_path, 2, silent) == first


@pytest.mark.parametrize("kind", FORMS)
def test_room_is_asked_for_what_is_written_and_not_for_sixteen_bits(
    tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    needed = (packed_folder(tiny, kind, tmp_path / "first", 2, silent) / "model.safetensors").stat().st_size
    assert needed + HEADER_BYTES < 2 * tiny.config.weight_elements()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed + HEADER_BYTES))
    packed_folder(tiny, kind, tmp_path / "second", 2, silent)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed))
    with pytest.raises(NoRoom, match="A Hugging Face copy"):
        packed_folder(tiny, kind, tmp_path / "third", 2, silent)


def test_rows_that_do_not_pack_are_refused() -> None:
    with pytest.raises(UnsupportedModel, match="rows of 40, which 4 bits do not pack"):
        parts("layers.0.mlp.up_proj", (64, 40), FORMS["int4"], "float16")
