"""Downloads against a hub on this machine, with every fault that a download meets."""

import errno
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, Self

import pytest
from enginebench_models import hub as hub_module
from enginebench_models.catalogue import Entry, SourceFile, entry
from enginebench_models.checkpoint import open_checkpoint
from enginebench_models.errors import DownloadFailed, InvalidModel, ModelNotFound, NoRoom
from enginebench_models.inventory import inventory
from enginebench_models.pull import RECORD, digest, downloaded, planned
from enginebench_models.store import locate

from .fake_hub import CHUNK_BYTES, COMMIT, FakeHub, described, running

REPOSITORY = "someone/tiny-GGUF"
MODEL = "tiny-f16.gguf"
TOKEN = "hf_secretsecretsecret"


@pytest.fixture(autouse=True)
def no_waiting_and_small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub waits a second before each of five tries, and writes 10 MB at a time, more than `tiny` has.

    And whether somebody is logged in on this machine is nobody's business.
    """
    from huggingface_hub import constants

    waits(monkeypatch, lambda seconds: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", CHUNK_BYTES)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nonexistent")


def waits(monkeypatch: pytest.MonkeyPatch, sleep: Callable[[float], None]) -> None:
    from huggingface_hub import file_download

    monkeypatch.setattr(file_download, "time", SimpleNamespace(**(vars(time) | {"sleep": sleep})))


@pytest.fixture
def tiny_entry() -> Entry:
    files = (SourceFile(MODEL),)
    return replace(entry("tiny"), repository=REPOSITORY, format="gguf", licence="Some Licence", files=files)


@pytest.fixture
def hub(tiny_gguf: Path) -> Iterator[FakeHub]:
    with running(FakeHub(REPOSITORY, {MODEL: tiny_gguf.read_bytes(), "README.md": b"hello"})) as found:
        yield found


def pull(model: Entry, cache: Path, hub: FakeHub) -> Path:
    return downloaded(planned(model, cache, hub.address))


def leftovers(cache: Path) -> list[str]:
    return sorted(
        str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"
    )


def test_a_model_arrives_whole_is_recorded_and_is_found(tiny_entry: Entry, hub: FakeHub, tmp_path: Path) -> None:
    told: list[tuple[str, int]] = []
    path = downloaded(planned(tiny_entry, tmp_path, hub.address), lambda name, done: told.append((name, done)))
    assert leftovers(tmp_path) == [f"tiny/{RECORD}", f"tiny/{MODEL}"]
    assert (path / MODEL).read_bytes() == hub.files[MODEL]
    record = json.loads((path / RECORD).read_text())
    assert (record["repository"], record["commit"]) == (REPOSITORY, COMMIT)
    assert record["files"] == [
        {
            "name": MODEL,
            "size_bytes": len(hub.files[MODEL]),
            "sha256": described(MODEL, hub.files[MODEL])["lfs"]["sha256"],
            "checked_against": "the hub's SHA-256",
        }
    ]
    assert told[-1] == (MODEL, len(hub.files[MODEL]))
    assert [done for _, done in told] == sorted(done for _, done in told)
    assert locate("tiny", "real", tmp_path).path == path
    assert open_checkpoint(path).config == tiny_entry.config


def test_what_is_here_is_not_fetched_again(tiny_entry: Entry, hub: FakeHub, tmp_path: Path) -> None:
    pull(tiny_entry, tmp_path, hub)
    before = len(hub.bodies())
    pull(tiny_entry, tmp_path, hub)
    assert len(hub.bodies()) == before == 1


def test_safetensors_come_with_all_shards_and_small_files_are_checked_too(
    tiny_folder: Path, tiny_entry: Entry, tmp_path: Path
) -> None:
    files = {file.name: file.read_bytes() for file in tiny_folder.iterdir()}
    files |= {"original/consolidated.00.pth": b"x" * 9000, "other.safetensors": b"x"}
    model = replace(tiny_entry, format="safetensors", files=(SourceFile("config.json"), SourceFile("tokenizer.json")))
    with running(FakeHub(REPOSITORY, files)) as hub:
        path = pull(model, tmp_path, hub)
        assert {file.name for file in path.iterdir()} == {"config.json", "tokenizer.json", "model.safetensors", RECORD}
        against = {each["name"]: each["checked_against"] for each in json.loads((path / RECORD).read_text())["files"]}
        assert against["config.json"] == "the hub's git object id"
        assert against["model.safetensors"] == "the hub's SHA-256"


def test_a_break_leaves_a_part_and_no_model_and_the_rest_alone_is_fetched(
    tiny_entry: Entry, hub: FakeHub, tmp_path: Path
) -> None:
    whole, cut = len(hub.files[MODEL]), 3_000_000
    hub.cut_at = cut
    with pytest.raises(DownloadFailed, match=r"cannot be reached.*goes on from there"):
        pull(tiny_entry, tmp_path, hub)
    assert not (tmp_path / "tiny").exists()
    (unfinished,) = inventory(tmp_path)
    assert (unfinished.kind, unfinished.name) == ("unfinished", "tiny")
    kept = unfinished.size_bytes
    assert 0 < kept <= cut
    assert leftovers(tmp_path) == [f".unfinished/tiny@{COMMIT}/{MODEL}.part"]

    hub.down = False
    path = pull(tiny_entry, tmp_path, hub)
    first, second = hub.bodies()
    assert second.start == kept
    assert second.sent == whole - kept
    assert digest(path / MODEL) == described(MODEL, hub.files[MODEL])["lfs"]["sha256"]
    assert leftovers(tmp_path) == [f"tiny/{RECORD}", f"tiny/{MODEL}"]
    assert first.start == 0


def test_a_short_break_is_gone_over_at_once(
    tiny_entry: Entry, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits(monkeypatch, lambda seconds: setattr(hub, "down", False))
    hub.cut_at = 1_000_000
    pull(tiny_entry, tmp_path, hub)
    assert [request.start > 0 for request in hub.bodies()] == [False, True]


def test_a_store_without_ranges_costs_bytes_and_not_the_model(tiny_entry: Entry, hub: FakeHub, tmp_path: Path) -> None:
    hub.cut_at = 1_000_000
    with pytest.raises(DownloadFailed):
        pull(tiny_entry, tmp_path, hub)
    hub.down, hub.ranges = False, False
    assert (pull(tiny_entry, tmp_path, hub) / MODEL).read_bytes() == hub.files[MODEL]


def test_killed_in_the_middle_it_goes_on_from_there(tiny_entry: Entry, hub: FakeHub, tmp_path: Path) -> None:
    """SIGKILL: no handler of ours runs."""
    hub.pause_seconds = 0.02
    code = f"""
from dataclasses import replace
from pathlib import Path
from huggingface_hub import constants
from enginebench_models.catalogue import SourceFile, entry
from enginebench_models.pull import downloaded, planned
constants.DOWNLOAD_CHUNK_SIZE = {CHUNK_BYTES}
model = replace(entry("tiny"), repository={REPOSITORY!r}, format="gguf", files=(SourceFile({MODEL!r}),))
downloaded(planned(model, Path({str(tmp_path)!r}), {hub.address!r}))
"""
    child = subprocess.Popen([sys.executable, "-c", code])
    part = tmp_path / ".unfinished" / f"tiny@{COMMIT}" / f"{MODEL}.part"
    deadline = time.monotonic() + 20
    while not (part.exists() and part.stat().st_size > 1_000_000):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait(10)
    kept = part.stat().st_size
    assert kept < len(hub.files[MODEL])
    assert not (tmp_path / "tiny").exists()
    hub.pause_seconds = 0.0
    path = pull(tiny_entry, tmp_path, hub)
    assert hub.bodies()[-1].start == kept
    assert (path / MODEL).read_bytes() == hub.files[MODEL]


def test_two_at_once_are_one_download(tiny_entry: Entry, hub: FakeHub, tmp_path: Path) -> None:
    hub.pause_seconds = 0.002
    plans = [planned(tiny_entry, tmp_path, hub.address) for _ in range(2)]
    said: list[str] = []
    threads = [threading.Thread(target=downloaded, args=(plan, lambda name, done: said.append(name))) for plan in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(hub.bodies()) == 1
    assert "another process downloads it; waiting" in said
    assert (tmp_path / "tiny" / MODEL).read_bytes() == hub.files[MODEL]


def flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def test_wrong_bytes_are_refused_and_deleted(tiny_entry: Entry, hub: FakeHub, tmp_path: Path) -> None:
    hub.altered[MODEL] = flipped
    with pytest.raises(DownloadFailed, match="arrived with other bytes"):
        pull(tiny_entry, tmp_path, hub)
    assert leftovers(tmp_path) == []
    del hub.altered[MODEL]
    pull(tiny_entry, tmp_path, hub)
    assert [request.start for request in hub.bodies()] == [0, 0]


def test_wrong_bytes_of_a_small_file_are_refused_too(tiny_folder: Path, tiny_entry: Entry, tmp_path: Path) -> None:
    files = {file.name: file.read_bytes() for file in tiny_folder.iterdir()}
    model = replace(tiny_entry, format="safetensors", files=(SourceFile("config.json"),))
    wrong = pytest.raises(DownloadFailed, match=r"config.json arrived with other bytes.*git object id")
    with running(FakeHub(REPOSITORY, files, altered={"config.json": flipped})) as hub, wrong:
        pull(model, tmp_path, hub)
    assert leftovers(tmp_path) == []


def test_the_catalogues_checksum_outranks_the_hubs(tiny_entry: Entry, hub: FakeHub, tmp_path: Path) -> None:
    known = described(MODEL, hub.files[MODEL])["lfs"]["sha256"]
    model = replace(tiny_entry, files=(SourceFile(MODEL, sha256=known),))
    record = json.loads((pull(model, tmp_path / "right", hub) / RECORD).read_text())
    assert record["files"][0]["checked_against"] == "catalogue"
    with pytest.raises(DownloadFailed, match="the catalogue says 0000"):
        pull(replace(tiny_entry, files=(SourceFile(MODEL, sha256="0" * 64),)), tmp_path / "wrong", hub)
    assert len(hub.bodies()) == 1


def test_a_part_that_is_too_long_is_begun_anew(tiny_entry: Entry, hub: FakeHub, tmp_path: Path) -> None:
    download = planned(tiny_entry, tmp_path, hub.address)
    download.folder.mkdir(parents=True)
    (download.folder / f"{MODEL}.part").write_bytes(b"x" * (len(hub.files[MODEL]) + 1))
    downloaded(download)
    assert [request.start for request in hub.bodies()] == [0]


def test_a_revision_that_is_gone_is_named(tiny_entry: Entry, hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match=r"someone/tiny-GGUF has no revision dead00"):
        pull(replace(tiny_entry, revision="dead00"), tmp_path, hub)
    assert list(tmp_path.iterdir()) == []


def test_the_pinned_revision_is_what_is_asked_for(tiny_entry: Entry, hub: FakeHub, tmp_path: Path) -> None:
    pull(replace(tiny_entry, revision=COMMIT), tmp_path, hub)
    assert hub.requests[0].path.startswith(f"/api/models/{REPOSITORY}/revision/{COMMIT}")
    assert hub.requests[1].path == f"/{REPOSITORY}/resolve/{COMMIT}/{MODEL}"


def test_a_gated_repository_says_what_to_do(tiny_entry: Entry, hub: FakeHub, tmp_path: Path) -> None:
    hub.gated = True
    with pytest.raises(DownloadFailed) as caught:
        pull(tiny_entry, tmp_path, hub)
    for words in (f"{hub.address}/{REPOSITORY}", "accept the licence (Some Licence)", "uv run hf auth login"):
        assert words in str(caught.value)


def test_a_token_goes_to_the_hub_alone_and_is_never_shown(
    tiny_entry: Entry, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.cut_at = 1_000_000
    with pytest.raises(DownloadFailed) as caught:
        pull(tiny_entry, tmp_path, hub)
    hub.down = False
    path = pull(tiny_entry, tmp_path, hub)
    seen = {(request.server, request.headers.get("authorization")) for request in hub.requests}
    assert ("hub", f"Bearer {TOKEN}") in seen
    assert {server for server, authorization in seen if authorization} == {"hub"}
    written = (path / RECORD).read_text() + "".join(capfd.readouterr()) + str(caught.value)
    assert TOKEN not in written


def test_no_hub_is_said_with_what_to_do_instead(tiny_entry: Entry, hub: FakeHub, tmp_path: Path) -> None:
    with running(replace(hub)) as gone:
        pass
    with pytest.raises(DownloadFailed) as caught:
        pull(tiny_entry, tmp_path, gone)
    for words in (gone.address, "cannot be reached", "--weights synthetic", "--model their path"):
        assert words in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_offline_mode_is_said(tiny_entry: Entry, hub: FakeHub, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\nfrom dataclasses import replace\nfrom enginebench_models.catalogue import entry\n"
        "from enginebench_models.pull import planned\nplanned(entry('llama3-1b'), Path('.'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"HF_HUB_OFFLINE": "1", "PATH": ""}
    )
    assert "DownloadFailed: HF_HUB_OFFLINE is set, so that nothing is downloaded." in done.stderr


class FullDisk:
    """A file on a disk with room for so many bytes more."""

    def __init__(self, file: BinaryIO, room: int) -> None:
        self.file, self.room = file, room

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, chunk: bytes) -> int:
        self.room -= len(chunk)
        if self.room < 0:
            self.file.write(chunk[: self.room])
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.file.write(chunk)


def test_a_full_disk_keeps_the_part_and_goes_on_when_there_is_room(
    tiny_entry: Entry, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "opened_to_append", lambda part: FullDisk(part.open("ab"), 2_000_000))
    with pytest.raises(NoRoom, match="The disk is full"):
        pull(tiny_entry, tmp_path, hub)
    assert not (tmp_path / "tiny").exists()
    monkeypatch.undo()
    pull(tiny_entry, tmp_path, hub)
    assert hub.bodies()[-1].start == 2_000_000


def test_a_disk_that_is_full_when_it_flushes_is_a_full_disk_too(
    tiny_entry: Entry, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("enginebench_models.pull.os.fsync", full)
    with pytest.raises(NoRoom, match="The disk is full"):
        pull(tiny_entry, tmp_path, hub)
    assert not (tmp_path / "tiny").exists()


def test_a_folder_that_cannot_be_written_is_said(tiny_entry: Entry, hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / ".unfinished").write_text("in the way")
    with pytest.raises(DownloadFailed, match="File exists"):
        pull(tiny_entry, tmp_path, hub)


def test_room_is_asked_for_before_the_first_byte(
    tiny_entry: Entry, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files["model-of-100-EB.gguf"] = b""
    real = hub.listed()
    huge = [{**each, "size": 10**20} if each["rfilename"] == MODEL else each for each in real["siblings"]]
    monkeypatch.setattr(FakeHub, "listed", lambda self: {**real, "siblings": huge})
    with pytest.raises(NoRoom, match=r"What is missing of tiny takes 100000000000.0 GB"):
        pull(tiny_entry, tmp_path, hub)
    assert not hub.bodies()


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "..", ".bashrc"])
def test_a_name_that_leads_elsewhere_is_refused(tiny_entry: Entry, hub: FakeHub, tmp_path: Path, name: str) -> None:
    hub.extra_names = [name]
    with pytest.raises(InvalidModel, match="plain file name was expected"):
        pull(replace(tiny_entry, files=(SourceFile(name),)), tmp_path, hub)
    assert list(tmp_path.iterdir()) == []


def test_a_hub_that_lists_a_strange_shard_is_refused(tiny_entry: Entry, hub: FakeHub, tmp_path: Path) -> None:
    hub.extra_names = ["model\\..\\x.safetensors"]
    with pytest.raises(InvalidModel, match="plain file name was expected"):
        pull(replace(tiny_entry, format="safetensors"), tmp_path, hub)


def test_a_missing_file_has_a_near_match(tiny_entry: Entry, hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match=r"has no file tiny-F16.gguf; it has tiny-f16.gguf"):
        pull(replace(tiny_entry, files=(SourceFile("tiny-F16.gguf"),)), tmp_path, hub)


def test_what_is_no_model_never_counts_as_one(tiny_entry: Entry, hub: FakeHub, tmp_path: Path) -> None:
    hub.files[MODEL] = b"GGUF" + b"\0" * 5000
    with pytest.raises(InvalidModel, match="no model that can be run"):
        pull(tiny_entry, tmp_path, hub)
    assert not (tmp_path / "tiny").exists()


def test_another_model_than_the_catalogues_never_counts_as_it(tiny_entry: Entry, hub: FakeHub, tmp_path: Path) -> None:
    other = replace(tiny_entry, config=replace(tiny_entry.config, n_layers=5))
    with pytest.raises(InvalidModel, match=r"has {'n_layers': 4}, tiny is {'n_layers': 5}"):
        pull(other, tmp_path, hub)
    assert not (tmp_path / "tiny").exists()


def test_another_commit_begins_anew_and_leaves_nothing_behind(tiny_entry: Entry, hub: FakeHub, tmp_path: Path) -> None:
    hub.cut_at = 1_000_000
    with pytest.raises(DownloadFailed):
        pull(tiny_entry, tmp_path, hub)
    hub.down, hub.commit = False, "beef" + "0" * 36
    pull(tiny_entry, tmp_path, hub)
    assert hub.bodies()[-1].start == 0
    assert leftovers(tmp_path) == [f"tiny/{RECORD}", f"tiny/{MODEL}"]


def test_a_synthetic_model_has_nothing_to_download(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="exists as a synthetic model only"):
        planned(entry("tiny"), tmp_path)
