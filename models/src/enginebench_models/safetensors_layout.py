"""From safetensors files and their config.json to the layout of a LLaMA model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enginebench_models.config import LlamaConfig, RopeScaling
from enginebench_models.errors import (
    InvalidModel,
    ModelNotFound,
    ModelTypeMismatch,
    UnsupportedModel,
    shown,
)
from enginebench_models.files import read_json
from enginebench_models.layout import SYNTHETIC_KEY, Layout, Place, check_layout, check_place
from enginebench_models.rope import inverse_frequencies
from enginebench_models.safetensors_header import Json, SafeTensor, SafetensorsHeader
from enginebench_models.storage import SAFETENSORS

LARGEST = 1e30
"""Of a number in config.json: float32 holds it, NaN and infinity are not below it."""


def safetensors_layout(
    headers: Mapping[Path, SafetensorsHeader], sizes: Mapping[Path, int], config_path: Path
) -> Layout:
    """Raises ModelError subclasses; `headers` and `sizes` hold every shard."""
    places: dict[str, Place] = {}
    for file, header in headers.items():
        for name, tensor in header.tensors.items():
            add_place(places, canonical(name), place(file, tensor, header.data_offset), sizes[file])
    config = read_config(config_path)
    if config.tied_embeddings:
        places.pop("lm_head", None)  # transformers ignores a stored copy as well
    frequencies = inverse_frequencies(config.rope_theta, config.head_dim, config.rope_scaling)
    synthetic = any(SYNTHETIC_KEY in header.metadata for header in headers.values())
    starts = {file: header.data_offset for file, header in headers.items()}
    layout = Layout("safetensors", config, frequencies, places, starts, synthetic)
    check_layout(layout, config_path.parent)
    return layout


def place(file: Path, tensor: SafeTensor, data_offset: int) -> Place:
    if tensor.dtype not in SAFETENSORS:
        raise UnsupportedModel(f"{file}: {tensor.name} is stored as {tensor.dtype}; {', '.join(SAFETENSORS)} are read.")
    return Place(file, data_offset + tensor.begin, tensor.shape, SAFETENSORS[tensor.dtype])


def add_place(places: dict[str, Place], name: str, found: Place, file_bytes: int) -> None:
    if name.endswith("rotary_emb.inv_freq"):
        return  # written by old transformers; follows from the config
    if name in places:
        raise InvalidModel(
            f"{shown(name)} lies both in {places[name].file.name} and in {found.file.name}; delete one of them.",
            "weights-extra",
        )
    check_place(found, name, file_bytes)
    places[name] = found


def canonical(name: str) -> str:
    return name.removeprefix("model.").removesuffix(".weight")


def read_config(path: Path) -> LlamaConfig:
    """A Hugging Face config.json, of transformers before and after version 5 (`rope_parameters`)."""
    if not path.is_file():
        raise ModelNotFound(
            f"{path} is missing; safetensors weights need the config.json that came with them.", "missing-file"
        )
    raw = read_json(path)
    if raw.get("model_type") != "llama":
        raise ModelTypeMismatch("llama", str(raw.get("model_type")), path)
    refuse_unsupported(raw, path)
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    return llama_config(Fields(raw, path), Fields(rope, path))


class Fields:
    """Typed access to a JSON object; a wrong type is an error, never a surprise later."""

    def __init__(self, raw: Any, path: Path) -> None:
        self.raw = raw
        self.path = path
        if not isinstance(raw, dict):
            raise self.garbled("rope_scaling", raw)

    def whole(self, key: str, default: int | None = None) -> int:
        value = self.given(key, default)
        if type(value) is not int:
            raise self.garbled(key, value)
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.given(key, default)
        if type(value) not in (int, float) or not -LARGEST < value < LARGEST:
            raise self.garbled(key, value)
        return float(value)

    def given(self, key: str, default: float | None) -> Any:
        value = self.raw.get(key)
        return default if value is None else value

    def garbled(self, key: str, value: object) -> InvalidModel:
        return InvalidModel(
            f"{self.path} lacks or garbles {key!r}: {shown(value)}. Take the file that came with the weights.",
            "config-value",
        )


def llama_config(raw: Fields, rope: Fields) -> LlamaConfig:
    dim, heads = raw.whole("hidden_size"), raw.whole("num_attention_heads")
    return LlamaConfig(
        dim=dim,
        n_layers=raw.whole("num_hidden_layers"),
        n_heads=heads,
        n_kv_heads=raw.whole("num_key_value_heads", heads),
        head_dim=raw.whole("head_dim", dim // max(heads, 1)),
        hidden_dim=raw.whole("intermediate_size"),
        vocab_size=raw.whole("vocab_size"),
        norm_eps=raw.number("rms_norm_eps"),
        rope_theta=rope.number("rope_theta", raw.number("rope_theta", 10000.0)),
        max_context=raw.whole("max_position_embeddings"),
        tied_embeddings=raw.raw.get("tie_word_embeddings", False) is True,
        rope_scaling=rope_scaling(rope),
    )


def rope_scaling(rope: Fields) -> RopeScaling | None:
    kind = rope.raw.get("rope_type", rope.raw.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise UnsupportedModel(f"{rope.path} uses {shown(kind)} RoPE scaling; default and llama3 are run.")
    return RopeScaling(
        factor=rope.number("factor"),
        low_freq_factor=rope.number("low_freq_factor"),
        high_freq_factor=rope.number("high_freq_factor"),
        original_context=rope.whole("original_max_position_embeddings"),
    )


def refuse_unsupported(raw: Json, path: Path) -> None:
    plain = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "quantization_config": None}
    for key, value in plain.items():
        if raw.get(key, value) != value:
            raise UnsupportedModel(f"{path} has {key} = {shown(raw[key])}; {value!r} is run.")
