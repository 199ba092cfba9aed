"""Which files of a path hold the weights; and where a folder holds none that can be read, what it is and what to do.

Names only, and the index of a sharded model: what the files hold is read elsewhere.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from enginebench_models import limits
from enginebench_models.errors import InvalidModel, ModelNotFound, NotAModel, UnsupportedModel, shown
from enginebench_models.files import read_json
from enginebench_models.plain_name import plain_name

INDEX = "model.safetensors.index.json"
PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.(?P<format>gguf|safetensors)")
"""Of llama-gguf-split and of transformers."""
PICKLED = {
    "consolidated.*.pth": (
        "Meta's original checkpoint",
        "convert it with transformers' convert_llama_weights_to_hf.py",
    ),
    **dict.fromkeys(
        ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle"),
        ("weights as PyTorch pickles them", "save the model again as safetensors"),
    ),
}


def weight_files(path: Path) -> list[Path]:
    """The files that hold the weights of a file or directory path."""
    if not path.exists():
        raise ModelNotFound(
            f"There is no file or directory {path}. Check the path, or name a catalogue model.", "no-such-path"
        )
    if not path.is_dir():
        refuse_single_shard(path)
        return [path]
    shards, ggufs = shard_files(path), sorted(path.glob("*.gguf"))
    if shards:
        return shards
    if not ggufs:
        refuse_without_weights(path)
    refuse_several(path, ggufs)
    return ggufs


def shard_files(folder: Path) -> list[Path]:
    """The safetensors files of a directory: those of the index, else all there are."""
    index = folder / INDEX
    if not index.is_file():
        found = sorted(folder.glob("*.safetensors"))
        if missing := missing_parts(file.name for file in found):
            raise ModelNotFound(
                f"{folder} lacks {', '.join(missing)}, which the numbers in the names call for. Download it again.",
                "missing-file",
            )
        return found
    names = read_json(index).get("weight_map", {})
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise InvalidModel(f"{index}: weight_map is {shown(names)}; file names by tensor were expected.", "index")
    shards = sorted(set(names.values()))
    limits.check(index, "shards", len(shards), limits.MAX_SHARDS, "index")
    return [shard(folder, name) for name in shards]


def shard(folder: Path, name: str) -> Path:
    if not plain_name(name, folder / INDEX, "index").endswith(".safetensors"):
        raise InvalidModel(f"{folder / INDEX} names the shard {shown(name)}; NAME.safetensors was expected.", "index")
    if not (folder / name).is_file():
        raise ModelNotFound(
            f"{folder / INDEX} names the shard {name!r}, which is not there. Download it again.", "missing-file"
        )
    return folder / name


def missing_parts(names: Iterable[str]) -> list[str]:
    """The names that a numbered set lacks, at most three: sets as large as limits.MAX_SHARDS are believed."""
    present = set(names)
    sets = {(m["stem"], int(m["count"]), m["format"]) for name in present if (m := PART.fullmatch(name))}
    return [
        name
        for stem, count, kind in sorted(sets)
        for number in range(1, min(count, limits.MAX_SHARDS) + 1)
        if (name := f"{stem}-{number:05}-of-{count:05}.{kind}") not in present
    ][:3]


def refuse_single_shard(path: Path) -> None:
    part = PART.fullmatch(path.name)
    if part and part["format"] == "safetensors" and int(part["count"]) > 1:
        raise NotAModel(f"{path} is one of {int(part['count'])} shards: give their directory.", "no-weights")


def refuse_several(folder: Path, ggufs: list[Path]) -> None:
    parts = [part for file in ggufs if (part := PART.fullmatch(file.name)) and int(part["count"]) > 1]
    if len({(part["stem"], part["count"]) for part in parts}) == 1 and len(parts) == len(ggufs):
        refuse_split(folder, ggufs)
    if len(ggufs) > 1:
        names = ", ".join(file.name for file in ggufs)
        raise NotAModel(
            f"{folder} holds {len(ggufs)} GGUF files ({names}); give the path of one of them.", "no-weights"
        )


def refuse_split(folder: Path, ggufs: list[Path]) -> NoReturn:
    """Not read, whether all parts are here or not."""
    missing = missing_parts(file.name for file in ggufs)
    first = f"Download {', '.join(missing)}, then merge" if missing else "Merge"
    raise UnsupportedModel(
        f"{folder} holds a model that was split into several GGUF files. {first} them: "
        f"llama-gguf-split --merge {ggufs[0].name} merged.gguf, and give merged.gguf."
    )


def refuse_without_weights(folder: Path) -> NoReturn:
    for pattern, (what, remedy) in PICKLED.items():
        if found := sorted(folder.glob(pattern)):
            raise UnsupportedModel(
                f"{folder} holds {what} ({found[0].name}), a pickle, and nothing is unpickled here: {remedy}, or "
                "download a model as GGUF or safetensors (enginebench models pull NAME)."
            )
    raise NotAModel(
        f"{folder} holds neither a .gguf nor a .safetensors file; give the model's directory.", "no-weights"
    )
