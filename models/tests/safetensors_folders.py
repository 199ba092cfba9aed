"""Folders of safetensors for tests: edited, and split into shards."""

import json
import shutil
import struct
from pathlib import Path
from typing import Any

Json = dict[str, Any]


def split_into_shards(folder: Path, target: Path) -> None:
    """Two shards and an index, as transformers' save_pretrained writes them."""
    target.mkdir()
    shutil.copy(folder / "config.json", target)
    raw = (folder / "model.safetensors").read_bytes()
    length = struct.unpack_from("<Q", raw)[0]
    entries = json.loads(raw[8 : 8 + length])
    entries.pop("__metadata__")
    names, weight_map = sorted(entries), {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        data, directory = b"", {}
        for name in part:
            begin, end = entries[name]["data_offsets"]
            directory[name] = entries[name] | {"data_offsets": [len(data), len(data) + end - begin]}
            data += raw[8 + length + begin : 8 + length + end]
            weight_map[name] = file
        write_safetensors(target / file, directory, data)
    (target / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def write_safetensors(path: Path, directory: Json, data: bytes) -> None:
    text = json.dumps(directory).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def edit_config(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
