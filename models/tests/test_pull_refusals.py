"""Downloads that must not become a model: other bytes, strange names, closed doors, a full disk."""

import errno
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Self

import pytest
from enginebench_models import hub as hub_module
from enginebench_models.catalogue import Entry, SourceFile
from enginebench_models.errors import DownloadFailed, InvalidModel, NoRoom
from enginebench_models.pull import RECORD, planned

from .downloads import MODEL, REPOSITORY, TOKEN, leftovers, pull
from .fake_hub import COMMIT, FakeHub, described, running

pytestmark = pytest.mark.usefixtures("no_waiting_and_small_chunks")


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


def test_an_error_without_words_is_told_by_its_name() -> None:
    failed = pytest.raises(DownloadFailed, match="someone/tiny: ConnectionResetError")
    with failed, hub_module.told("someone/tiny", None):
        raise ConnectionResetError


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


@pytest.mark.parametrize("commit", ["../../elsewhere", "beef", "/etc" + "0" * 36, "BEEF" + "0" * 36])
def test_a_commit_that_is_none_never_becomes_the_name_of_a_folder(
    tiny_entry: Entry, hub: FakeHub, tmp_path: Path, commit: str
) -> None:
    hub.commit = commit
    with pytest.raises(DownloadFailed, match="names no commit"):
        planned(replace(tiny_entry, revision=None), tmp_path, hub.address)


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
