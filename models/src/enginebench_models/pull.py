"""Download a catalogue model: pinned, resumed after a break, every byte checked, and there at once or not at all.

Files grow as NAME.part in a folder of their own. A file whose checksum is right loses the suffix; when all have, the
folder is validated as before every run, and one rename makes it the model.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from enginebench_models.catalogue import Entry
from enginebench_models.disk import check_room
from enginebench_models.errors import DownloadFailed, InvalidModel, ModelNotFound
from enginebench_models.hub import Listing, RemoteFile, fetch, listing, told
from enginebench_models.inventory import UNFINISHED
from enginebench_models.plain_name import plain_name
from enginebench_models.validation import validate_path

RECORD = "pulled.json"
"""Beside the weights: where they came from, and what each file was checked against."""
SHARDS = "model*.safetensors"
Progress = Callable[[str, int], None]
"""Told the file in hand, and how many bytes of all files are here."""


@dataclass(frozen=True)
class Download:
    """Everything that is known before the first byte."""

    entry: Entry
    source: Listing
    files: tuple[RemoteFile, ...]
    cache: Path
    endpoint: str | None = None

    @property
    def target(self) -> Path:
        return self.cache / self.entry.name

    @property
    def folder(self) -> Path:
        return self.cache / UNFINISHED / f"{self.entry.name}@{self.source.commit}"

    @property
    def total_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    @property
    def missing_bytes(self) -> int:
        return sum(file.size_bytes - here(self.folder, file) for file in self.files)


def planned(entry: Entry, cache: Path, endpoint: str | None = None) -> Download:
    """Ask the hub what there is. Raises ModelNotFound, DownloadFailed; InvalidModel for a name that is not plain."""
    if entry.repository is None:
        raise ModelNotFound(f"{entry.name} exists as a synthetic model only: there is nothing to download.")
    source = listing(entry.repository, entry.revision, endpoint, entry.licence)
    return Download(entry, source, wanted(entry, source), cache, endpoint)


def wanted(entry: Entry, source: Listing) -> tuple[RemoteFile, ...]:
    """The catalogue's files, and of safetensors models all shards."""
    names = [file.name for file in entry.files]
    if entry.format == "safetensors":
        names += [name for name in source.files if fnmatch(name, SHARDS) and "/" not in name]
    checked = [plain_name(name, source.repository) for name in dict.fromkeys(names)]
    return tuple(agreed(entry, source, name) for name in checked)


def agreed(entry: Entry, source: Listing, name: str) -> RemoteFile:
    """The hub's file, if it is the catalogue's. Raises DownloadFailed."""
    where = f"{source.repository} at {source.commit[:12]}"
    found = source.files.get(name)
    if found is None:
        near = get_close_matches(name, source.files, n=1)
        raise DownloadFailed(f"{where} has no file {name}{f'; it has {near[0]}' if near else ''}.")
    for known in (file.sha256 for file in entry.files if file.name == name and file.sha256):
        if found.sha256 not in (None, known):
            raise DownloadFailed(f"{where}: {name} has the SHA-256 {found.sha256}, the catalogue says {known}.")
        return RemoteFile(name, found.size_bytes, known, found.git_id)
    return found


def downloaded(download: Download, progress: Progress = lambda name, done: None) -> Path:
    """The folder of the model, complete and valid. Raises DownloadFailed, NoRoom, InvalidModel."""
    source = download.source
    with told(source.repository, source.commit, download.endpoint, download.entry.licence), locked(download, progress):
        if download.target.exists():
            return download.target
        download.folder.mkdir(parents=True, exist_ok=True)
        check_room(f"What is missing of {download.entry.name}", download.missing_bytes, download.folder)
        evidence = [checked_file(download, file, progress) for file in download.files]
        check_model(download)
        write_record(download, evidence)
        publish(download)
    return download.target


@contextmanager
def locked(download: Download, progress: Progress) -> Iterator[None]:
    """One download of a model at a time; the kernel gives the lock back whatever becomes of us."""
    lock = download.cache / UNFINISHED / f"{download.entry.name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("another process downloads it; waiting", 0)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def checked_file(download: Download, file: RemoteFile, progress: Progress) -> dict[str, Any]:
    """Fetched where it is not here yet. Returns what it was checked against."""
    whole, part = download.folder / file.name, part_of(download.folder, file)
    if not whole.exists():
        before = download.total_bytes - download.missing_bytes - here(download.folder, file)
        if part.exists() and part.stat().st_size > file.size_bytes:
            part.unlink()
        fetch(download.source, file, part, lambda done: progress(file.name, before + done), download.endpoint)
    progress(file.name, download.total_bytes - download.missing_bytes)
    read = whole if whole.exists() else part
    sha256, against = check_bytes(download, file, read)
    if read is part:
        flush(part)
        part.rename(whole)
    return {"name": file.name, "size_bytes": file.size_bytes, "sha256": sha256, "checked_against": against}


def check_bytes(download: Download, file: RemoteFile, path: Path) -> tuple[str, str]:
    """Its SHA-256, and whose word it was held against. Wrong bytes are deleted; raises DownloadFailed."""
    sha256 = digest(path)
    if file.sha256:
        catalogue = {known.name for known in download.entry.files if known.sha256}
        against = "catalogue" if file.name in catalogue else "the hub's SHA-256"
        right, claimed = sha256 == file.sha256, file.sha256
    else:
        against, claimed = "the hub's git object id", file.git_id or "nothing"
        right = git_id(path) == file.git_id
    if not right:
        path.unlink()
        raise DownloadFailed(
            f"{file.name} arrived with other bytes than {claimed} ({against}) stands for, and was deleted. Pull again; "
            "if it happens again, something between the hub and here changes files."
        )
    return sha256, against


def check_model(download: Download) -> None:
    """Raises InvalidModel. The bytes are the hub's: another try would not help, and a look at them might."""
    kept = f"It stays in {download.folder} until `enginebench models remove {download.entry.name}`."
    found = validate_path(download.folder)
    if found.kind != "valid":
        raise InvalidModel(f"What the hub has is no model that can be run: {found.message} {kept}", found.rule)
    ours = asdict(download.entry.config)
    other = {name: size for name, size in found.facts["shape"].items() if ours[name] != size}
    if other:
        known = {name: ours[name] for name in other}
        raise InvalidModel(
            f"{download.source.repository} has {other}, {download.entry.name} is {known}.", "model-shape"
        )


def write_record(download: Download, files: list[dict[str, Any]]) -> None:
    entry, source = download.entry, download.source
    facts = {"name": entry.name, "repository": source.repository, "commit": source.commit, "licence": entry.licence}
    record = download.folder / RECORD
    record.write_text(json.dumps({**facts, "files": files}, indent=2) + "\n", encoding="utf-8")
    flush(record)


def publish(download: Download) -> None:
    """From here on it is found; parts of other commits are of no use any more."""
    download.folder.rename(download.target)
    flush(download.cache)
    for old in (download.cache / UNFINISHED).glob(f"{download.entry.name}@*"):
        shutil.rmtree(old)


def here(folder: Path, file: RemoteFile) -> int:
    """Bytes of it that need not be fetched again."""
    for path in (folder / file.name, part_of(folder, file)):
        if path.exists():
            return min(path.stat().st_size, file.size_bytes)
    return 0


def part_of(folder: Path, file: RemoteFile) -> Path:
    return folder / f"{file.name}.part"


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_id(path: Path) -> str:
    """Of a blob: git hash-object."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def flush(path: Path) -> None:
    """To the disk, file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
