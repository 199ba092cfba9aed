"""Downloads against a hub on this machine, with every fault that a download meets."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from enginebench_models.catalogue import Entry, SourceFile, entry
from enginebench_models.checkpoint import open_checkpoint
from enginebench_models.errors import DownloadFailed, ModelNotFound
from enginebench_models.inventory import inventory, size_of
from enginebench_models.pull import RECORD, digest, downloaded, planned
from enginebench_models.store import locate

from .downloads import MODEL, REPOSITORY, leftovers, pull, waits
from .fake_hub import CHUNK_BYTES, COMMIT, FakeHub, described, running

pytestmark = pytest.mark.usefixtures("no_waiting_and_small_chunks")


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


def test_a_download_that_goes_on_while_it_is_looked_at_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part that is complete loses its suffix between one look and the next."""
    (tmp_path / "model.gguf.part").write_bytes(b"GGUF")
    looked = Path.stat

    def then_renamed(path: Path, **how: bool) -> os.stat_result:
        found = looked(path, **how)
        if path.suffix == ".part":
            path.rename(path.with_suffix(""))
        return found

    monkeypatch.setattr(Path, "stat", then_renamed)
    assert size_of(tmp_path) == 4


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


def test_a_part_that_is_too_long_is_begun_anew(tiny_entry: Entry, hub: FakeHub, tmp_path: Path) -> None:
    download = planned(tiny_entry, tmp_path, hub.address)
    download.folder.mkdir(parents=True)
    (download.folder / f"{MODEL}.part").write_bytes(b"x" * (len(hub.files[MODEL]) + 1))
    downloaded(download)
    assert [request.start for request in hub.bodies()] == [0]


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
