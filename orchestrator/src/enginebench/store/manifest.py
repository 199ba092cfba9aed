"""manifest.json seals the folder of a run: what was asked, and the SHA-256 of the files beside it.

It is written last. A folder without one is a run that still goes on, was killed, or was made before there were
manifests. It guards against edits and half copies, not against forgery.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path, PurePath

import msgspec

from enginebench.errors import UsageError

from . import files
from .anonymous import without_login
from .journal import SCHEMA_VERSION, refuse_newer
from .result import write_whole
from .run_folder import JOURNAL, RESULT

NAME = "manifest.json"
SEALED = (JOURNAL, RESULT)


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`command`: the words after `enginebench`, folders taken off. `files`: name → SHA-256."""

    schema_version: int
    run_id: str
    command: list[str]
    commit: str | None
    files: dict[str, str]


def seal(folder: Path, run_id: str, command: Sequence[str], commit: str | None) -> None:
    """Write the manifest of a run that has ended."""
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        run_id=run_id,
        command=[without_folders(word) for word in command],
        commit=commit,
        files={name: file_sha256(folder / name) for name in SEALED if (folder / name).is_file()},
    )
    write_whole(folder / NAME, msgspec.json.format(msgspec.json.encode(manifest)).decode() + "\n")


def unseal(folder: Path) -> None:
    """The run goes on: until it ends its journal alone says what was measured. Raises StorageError."""
    try:
        for name in (NAME, RESULT):
            files.remove(folder / name)
        files.sync_folder(folder)
    except OSError as error:
        raise files.failed(error, f"remove {NAME} and {RESULT}", folder) from error


def read_manifest(folder: Path) -> Manifest | None:
    """None where there is none. Raises UsageError for a newer version, or for what is no manifest."""
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        version = msgspec.json.decode(path.read_bytes(), type=_Version).schema_version
        refuse_newer(version, f"{folder.name}/{NAME}")
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(
            f"{folder.name}/{NAME} is damaged ({error}): remove it to read the run without its seal"
        ) from None


class _Version(msgspec.Struct):
    schema_version: object = None


def broken_seals(folder: Path, manifest: Manifest) -> list[str]:
    """Names of the files that are not those the run wrote."""
    return [
        name
        for name, expected in sorted(manifest.files.items())
        if name in SEALED and (not (folder / name).is_file() or file_sha256(folder / name) != expected)
    ]


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def without_folders(word: str) -> str:
    """A word of a command line without folders of this machine and without logins: --model=/a/b.gguf →
    --model=…/b.gguf."""
    option, equals, value = without_login(word).rpartition("=")
    return f"{option}{equals}…/{PurePath(value).name}" if "/" in value else f"{option}{equals}{value}"
