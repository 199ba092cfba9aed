"""A model file into a server, once: the copy of gguf_copy.py as a blob, then `create`.

How the server takes the blob is its own affair (Server.take, SharedServer.take).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import ollama
from enginebench_models.checkpoint import Checkpoint
from enginebench_models.disk import check_room, exclusive
from enginebench_models.making import making
from enginebench_models.plain_name import digest_name

from .gguf_copy import write_copy
from .words import Words

RECIPE = 1
"""Part of the model's name in the server: a changed copy is another model."""

HEADER_BYTES = 32 << 20
LOCK = "import.lock"
WEIGHTS = "application/vnd.ollama.image.model"
"""Media type of the layer that is a GGUF file."""


class Target(Protocol):
    """What an import needs of a server."""

    folder: Path
    """Where the copy is written first."""

    def take(self, client: ollama.Client, copy: Path, sha256: str) -> None:
        """Make `copy` a blob of the server; it may be moved away."""


@dataclass(frozen=True)
class Made:
    """A quantised model: its name in the server, its file, and whether this load had it made."""

    model: str
    file: Path
    new: bool


def model_name(checkpoint: Checkpoint) -> str:
    return f"enginebench-{checkpoint.fingerprint[:40]}:{RECIPE}"


def imported(
    client: ollama.Client, server: Target, checkpoint: Checkpoint, words: Words, progress: Callable[[float], None]
) -> str:
    """The model's name in the server, which has it afterwards. Raises NoRoom, OSError, ollama.ResponseError."""
    name = model_name(checkpoint)
    with exclusive(server.folder / LOCK):
        if name not in {known.model for known in client.list().models}:
            digest = deliver(client, server, checkpoint, words, progress)
            client.create(model=name, files={"model.gguf": digest})
    return name


def quantised(
    client: ollama.Client, server: Target, checkpoint: Checkpoint, kind: str, progress: Callable[[float], None]
) -> Made:
    """The imported model once more, quantised by the server. Raises NoRoom, OSError, ollama.ResponseError."""
    base = model_name(checkpoint)
    name = f"{base}-{kind}"
    with exclusive(server.folder / LOCK):
        new = name not in {known.model for known in client.list().models}
        if new:
            check_room(f"A {kind} copy", checkpoint.file_bytes, server.folder)
            for told in client.create(model=name, from_=base, quantize=kind, stream=True):
                if told.total:
                    progress((told.completed or 0) / told.total)
    return Made(name, blob_of(server.folder, name), new)


def blob_of(folder: Path, name: str) -> Path:
    """The file of a model's weights in a server's folder (manifest/paths.go).

    Raises OSError where it is not there, InvalidModel for a digest that is none.
    """
    model, tag = name.split(":")
    manifest = folder / "manifests" / "registry.ollama.ai" / "library" / model / tag
    layers = json.loads(manifest.read_text())["layers"]
    digests = [layer["digest"] for layer in layers if layer["mediaType"] == WEIGHTS]
    if len(digests) != 1:
        raise OSError(f"{manifest} names {len(digests)} files of weights, one was expected")
    return folder / "blobs" / digest_name(digests[0], manifest)


def deliver(
    client: ollama.Client, server: Target, checkpoint: Checkpoint, words: Words, progress: Callable[[float], None]
) -> str:
    """The digest of the blob, which the server has afterwards."""
    with making(server.folder / "copy") as folder:
        check_room("The import", checkpoint.file_bytes + HEADER_BYTES, server.folder)
        sha256 = write_copy(checkpoint.files[0], folder / "copy", words, progress)
        server.take(client, folder / "copy", sha256)
    return f"sha256:{sha256}"
