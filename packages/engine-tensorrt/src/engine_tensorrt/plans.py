"""Built plans on disk: found by what they were built from, written atomically, checked when read.

A plan is two files called by the digest of its key: NAME.plan, the serialized engine, and NAME.json, which is written
last and says what the plan was built from and its CRC-32: against damage, at the speed of a disk (SHA-256 would take
longer than the reading).
"""

from __future__ import annotations

import hashlib
import json
import mmap
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from enginebench_models import eight_bit, quantisation, sixteen_bits
from enginebench_models.making import making

from engine_tensorrt import account, build, model, number_types, weights
from engine_tensorrt.build import Sink

SOURCES = (account, build, eight_bit, model, number_types, quantisation, sixteen_bits, weights)
"""What decides about a plan besides its key's other fields."""


@dataclass(frozen=True)
class Key:
    """What a plan depends on.

    network  digest of the code that writes the network, and of the style it is written in
    weights  fingerprint of the checkpoint, which covers the model's shape and RoPE frequencies
    library  name and version of TensorRT
    device   name and compute capability of the GPU
    options  what the builder is told
    """

    network: str
    weights: str
    library: str
    device: str
    options: Mapping[str, Any]

    def digest(self) -> str:
        return hashlib.sha256(canonical(asdict(self)).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Plan:
    """A serialized engine, mapped, and the facts that were stored with it. `kernels`: the file for its kernels."""

    data: memoryview
    facts: Mapping[str, Any]
    kernels: Path


def network_digest(style: model.Style) -> str:
    digest = hashlib.sha256(canonical(asdict(style)).encode())
    for module in SOURCES:
        assert module.__file__ is not None
        digest.update(Path(module.__file__).read_bytes())
    return digest.hexdigest()


def canonical(facts: Mapping[str, Any]) -> str:
    return json.dumps(facts, sort_keys=True)


def read_plan(folder: Path, key: Key) -> Plan | None:
    """None where there is none, or none that is whole: a damaged one is removed."""
    plan, sidecar = paths(folder, key)
    try:
        stored = json.loads(sidecar.read_text())
        data = mapped(plan)
        if stored["key"] == asdict(key) and stored["crc32"] == zlib.crc32(data):
            return Plan(data, stored["facts"], kernels_path(folder, key))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        pass  # unreadable, empty or not what write_plan writes: as good as damaged
    remove_plan(folder, key)
    return None


def write_plan(folder: Path, key: Key, serialize: Callable[[Sink], None], facts: Mapping[str, Any]) -> Plan:
    """`serialize` writes the engine to what it is given; if it raises, nothing is left behind."""
    plan, sidecar = paths(folder, key)
    with making(plan) as scratch:
        with (scratch / plan.name).open("wb") as out:
            checked = CheckedWriter(out)
            serialize(checked)
        stored = {"key": asdict(key), "crc32": checked.crc32, "facts": dict(facts)}
        (scratch / sidecar.name).write_text(json.dumps(stored, indent=2))
        remove_plan(folder, key)  # no reader takes a new plan for the old one, or its kernels
        (scratch / plan.name).replace(plan)
        (scratch / sidecar.name).replace(sidecar)
    return Plan(mapped(plan), dict(facts), kernels_path(folder, key))


def remove_plan(folder: Path, key: Key) -> None:
    for path in (*paths(folder, key), kernels_path(folder, key)):
        path.unlink(missing_ok=True)


def kernels_path(folder: Path, key: Key) -> Path:
    """Where kernels that were compiled for the plan are kept (`kernels`)."""
    return folder / f"{key.digest()}.kernels"


def paths(folder: Path, key: Key) -> tuple[Path, Path]:
    name = key.digest()
    return folder / f"{name}.plan", folder / f"{name}.json"


def mapped(path: Path) -> memoryview:
    """Raises ValueError for an empty file."""
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


class CheckedWriter:
    """Passes on what is written, with its checksum."""

    def __init__(self, out: BinaryIO) -> None:
        self.out = out
        self.crc32 = 0

    def write(self, data: bytes) -> int:
        self.crc32 = zlib.crc32(data, self.crc32)
        return self.out.write(data)
