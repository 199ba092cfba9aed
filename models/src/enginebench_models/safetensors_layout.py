"""From safetensors files and their config.json to the layout of a LLaMA model.

The header is read here, not by the safetensors library, which copies bfloat16 tensors into other types.
Format: huggingface/safetensors README, "Format".
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enginebench_models.config import LlamaConfig, RopeScaling
from enginebench_models.errors import (
    InvalidModel,
    ModelError,
    ModelNotFound,
    ModelTypeMismatch,
    NotAModel,
    TruncatedModel,
    UnsupportedModel,
)
from enginebench_models.layout import SYNTHETIC_KEY, Layout, Place, check_layout, check_place
from enginebench_models.limits import MAX_JSON_BYTES, MAX_TENSORS, check
from enginebench_models.rope import inverse_frequencies
from enginebench_models.storage import SAFETENSORS

INDEX = "model.safetensors.index.json"
Json = dict[str, Any]


def safetensors_layout(buffers: Mapping[Path, memoryview], config_path: Path) -> Layout:
    """Raises ModelError subclasses; `buffers` holds every shard."""
    places: dict[str, Place] = {}
    headers: dict[Path, int] = {}
    synthetic = False
    for file, buffer in buffers.items():
        directory, headers[file] = read_directory(buffer, file)
        remarks = directory.pop("__metadata__", None)
        synthetic |= isinstance(remarks, dict) and SYNTHETIC_KEY in remarks
        for name, entry in directory.items():
            add_place(places, canonical(name), place(file, name, entry, headers[file]), len(buffer))
    config = read_config(config_path)
    if config.tied_embeddings:
        places.pop("lm_head", None)  # transformers ignores a stored copy as well
    frequencies = inverse_frequencies(config.rope_theta, config.head_dim, config.rope_scaling)
    layout = Layout("safetensors", config, frequencies, places, headers, synthetic)
    check_layout(layout, config_path.parent)
    return layout


def shard_files(folder: Path) -> list[Path]:
    """The safetensors files of a directory: those of the index, else the only one there is."""
    index = folder / INDEX
    if index.is_file():
        names = sorted(set(read_json(index).get("weight_map", {}).values()))
        return [shard(folder, name) for name in names]
    return sorted(folder.glob("*.safetensors"))


def shard(folder: Path, name: object) -> Path:
    if not isinstance(name, str) or Path(name).name != name:
        raise InvalidModel(f"{folder / INDEX} names the shard {name!r}; a plain file name was expected.")
    if not (folder / name).is_file():
        raise ModelNotFound(f"{folder / INDEX} names the shard {name!r}, which is not there. Download it again.")
    return folder / name


def read_directory(buffer: memoryview, path: Path) -> tuple[dict[str, Json], int]:
    """The entries of one file, "__metadata__" among them, and the length of its header."""
    if len(buffer) < 8:
        raise NotAModel(f"{path} has {len(buffer)} bytes: it is no safetensors file.")
    length = struct.unpack_from("<Q", buffer)[0]
    if bytes(buffer[8:9]) != b"{":
        raise NotAModel(f"{path} does not start as a safetensors file does.")
    check(path, "bytes of header", length, MAX_JSON_BYTES)
    if 8 + length > len(buffer):
        raise TruncatedModel(path, 8 + length, len(buffer), "the safetensors header")
    directory = parse_json(bytes(buffer[8 : 8 + length]), path)
    check(path, "tensors", len(directory), MAX_TENSORS)
    return directory, 8 + length


def place(file: Path, name: str, entry: Any, header_bytes: int) -> Place:
    try:
        storage, shape, (begin, end) = entry["dtype"], tuple(map(int, entry["shape"])), map(int, entry["data_offsets"])
    except (KeyError, TypeError, ValueError):
        raise InvalidModel(
            f"{file}: the entry of {name!r} is {entry!r}; dtype, shape and data_offsets were expected."
        ) from None
    if storage not in SAFETENSORS:
        raise UnsupportedModel(f"{file}: {name} is stored as {storage}; {', '.join(SAFETENSORS)} are read.")
    found = Place(file, header_bytes + begin, shape, SAFETENSORS[storage])
    if begin < 0 or min(shape, default=0) < 1 or found.n_bytes() != end - begin:
        raise InvalidModel(f"{file}: {name} {storage} {list(shape)} cannot fill the bytes {begin} to {end}.")
    return found


def add_place(places: dict[str, Place], name: str, found: Place, file_bytes: int) -> None:
    if name.endswith("rotary_emb.inv_freq"):
        return  # written by old transformers; follows from the config
    if name in places:
        raise InvalidModel(
            f"{name} lies both in {places[name].file.name} and in {found.file.name}; delete one of them."
        )
    check_place(found, name, file_bytes)
    places[name] = found


def canonical(name: str) -> str:
    return name.removeprefix("model.").removesuffix(".weight")


def read_config(path: Path) -> LlamaConfig:
    """A Hugging Face config.json, of transformers before and after version 5 (`rope_parameters`)."""
    if not path.is_file():
        raise ModelNotFound(f"{path} is missing; safetensors weights need the config.json that came with them.")
    raw = read_json(path)
    if raw.get("model_type") != "llama":
        raise ModelTypeMismatch("llama", str(raw.get("model_type")), path)
    refuse_unsupported(raw, path)
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    try:
        return llama_config(raw, rope, path)
    except ModelError:
        raise
    except (KeyError, TypeError, ValueError) as cause:
        raise InvalidModel(
            f"{path} lacks or garbles a field: {cause!r}. Take the file that came with the weights."
        ) from None


def llama_config(raw: Json, rope: Json, path: Path) -> LlamaConfig:
    heads = int(raw["num_attention_heads"])
    return LlamaConfig(
        dim=int(raw["hidden_size"]),
        n_layers=int(raw["num_hidden_layers"]),
        n_heads=heads,
        n_kv_heads=int(raw.get("num_key_value_heads") or heads),
        head_dim=int(raw.get("head_dim") or raw["hidden_size"] // heads),
        hidden_dim=int(raw["intermediate_size"]),
        vocab_size=int(raw["vocab_size"]),
        norm_eps=float(raw["rms_norm_eps"]),
        rope_theta=float(rope.get("rope_theta") or raw.get("rope_theta") or 10000.0),
        max_context=int(raw["max_position_embeddings"]),
        tied_embeddings=bool(raw.get("tie_word_embeddings", False)),
        rope_scaling=rope_scaling(rope, path),
    )


def rope_scaling(rope: Json, path: Path) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise UnsupportedModel(f"{path} uses {kind!r} RoPE scaling; default and llama3 are run.")
    return RopeScaling(
        factor=float(rope["factor"]),
        low_freq_factor=float(rope["low_freq_factor"]),
        high_freq_factor=float(rope["high_freq_factor"]),
        original_context=int(rope["original_max_position_embeddings"]),
    )


def refuse_unsupported(raw: Json, path: Path) -> None:
    plain = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "quantization_config": None}
    for key, value in plain.items():
        if raw.get(key, value) != value:
            raise UnsupportedModel(f"{path} has {key} = {raw[key]!r}; {value!r} is run.")


def read_json(path: Path) -> Json:
    check(path, "bytes", path.stat().st_size, MAX_JSON_BYTES)
    return parse_json(path.read_bytes(), path)


def parse_json(text: bytes, path: Path) -> Json:
    try:
        value = json.loads(text, object_pairs_hook=lambda pairs: unique(pairs, path))
    except ModelError:
        raise
    except (ValueError, RecursionError) as cause:
        raise InvalidModel(f"{path} holds JSON that cannot be read: {cause}.") from None
    if not isinstance(value, dict):
        raise InvalidModel(f"{path} holds a JSON {type(value).__name__}; an object was expected.")
    return value


def unique(pairs: list[tuple[str, Any]], path: Path) -> Json:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise InvalidModel(f"{path} holds a JSON key twice; the file is damaged.")
    return found
