"""`enginebench models`, `models pull` and `models remove`, as they are typed."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from enginebench.cli import command_line
from enginebench.cli import pull as pulling
from enginebench.cli.original import translated
from enginebench.errors import UsageError
from enginebench.workspace.discovery import ROOT, discover
from enginebench_models.catalogue import SourceFile, entry
from enginebench_models.pull import RECORD, planned
from enginebench_models.store import locate
from huggingface_hub import constants, file_download
from typer.testing import CliRunner, Result


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "enginebench" / "models"


def typed(*words: str) -> Result:
    return CliRunner().invoke(command_line(), ["models", *words])


def test_the_table_says_what_is_here_and_what_fits(cache: Path) -> None:
    locate("tiny", "synthetic", cache)
    done = typed()
    assert done.exit_code == 0
    first, second = done.stdout.split("GB for pp128+tg64")
    assert "synthetic 8.5 MB" in next(line for line in first.splitlines() if line.startswith("tiny"))
    row = next(line for line in second.splitlines() if line.startswith("llama3-405b"))
    assert "does not fit: needs 223.5 GB with nf4, has" in row
    assert [name for name in ("llama3-1b", "llama3-8b", "llama3-70b") if name not in second] == []


def test_a_mistyped_command_below_it_has_a_near_match() -> None:
    assert "did you mean 'pull'? there are pull, remove" in str(typed("pul", "tiny").exception)


def test_json_and_csv_hold_every_fact_unrounded(cache: Path) -> None:
    path = locate("tiny", "synthetic", cache).path
    tiny, *_ = json.loads(typed("-o", "json").stdout)["models"]
    assert tiny["synthetic_bytes"] == path.stat().st_size
    assert (tiny["synthetic_path"], tiny["real_bytes"], tiny["device"]) == (str(path), None, None)
    rows = {row["name"]: row for row in csv.DictReader(io.StringIO(typed("--shard", "2", "-o", "csv").stdout))}
    assert rows["tiny"]["shards"] == "2"
    assert int(rows["llama3-8b"]["needs_16_bit_bytes"]) < 2 * entry("llama3-8b").config.weight_elements()


def test_one_workload_is_asked_for(cache: Path) -> None:
    done = typed("-w", "prefill")
    assert isinstance(done.exception, UsageError)
    assert "give one" in str(done.exception)
    rows = json.loads(typed("-w", "pp8192+tg128", "-o", "json").stdout)["models"]
    assert next(row for row in rows if row["name"] == "llama3-8b")["host"] == "8320 tokens exceed its context of 8192"


# Downloads, from the hub of models/tests ----------------------------------------------------------------------------


def fake_hub() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fake_hub", ROOT / "models" / "tests" / "fake_hub.py")
    assert spec and spec.loader
    sys.modules["fake_hub"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`tiny`, as if it were published."""
    module, content = fake_hub(), locate("tiny", "synthetic", cache).path.read_bytes()
    published = replace(entry("tiny"), repository="someone/tiny", format="gguf", files=(SourceFile("tiny.gguf"),))
    monkeypatch.setattr(pulling, "entry", lambda name: published if name == "tiny" else entry(name))
    with module.running(module.FakeHub("someone/tiny", {"tiny.gguf": content})) as found:
        monkeypatch.setattr(pulling, "planned", partial(planned, endpoint=found.address))
        yield found


def test_a_pulled_model_is_listed_and_removed_again(cache: Path, hub: Any) -> None:
    done = typed("pull", "tiny")
    assert (done.exit_code, done.stdout) == (0, "")  # an answer may follow: enginebench --download --prompt
    assert f"tiny is in {cache / 'tiny'}" in done.stderr
    assert "tiny: 8.5 MB from someone/tiny at c0ffee000000" in done.stderr
    assert (cache / "tiny" / RECORD).is_file()
    assert "real 8.5 MB, synthetic 8.5 MB" in typed().stdout
    hub.down = True
    assert typed("pull", "tiny").exit_code == 0  # it is here: no hub is needed
    assert isinstance(typed("remove", "tiny").exception, UsageError)  # nobody can be asked
    assert (cache / "tiny").exists()
    assert typed("remove", "tiny", "--yes").exit_code == 0
    assert not (cache / "tiny").exists()
    assert isinstance(typed("remove", "tiny", "--yes").exception, UsageError)


def test_of_a_model_that_is_a_link_the_link_is_removed_and_what_it_leads_to_stays(cache: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "disk" / "tiny"
    elsewhere.mkdir(parents=True)
    (elsewhere / "config.json").write_text("{}")
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "tiny").symlink_to(elsewhere)
    assert typed("remove", "tiny", "--yes").exit_code == 0
    assert not (cache / "tiny").is_symlink()
    assert (elsewhere / "config.json").exists()


def test_what_cannot_be_deleted_is_told(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache / "tiny").mkdir(parents=True)

    def busy(path: Path) -> None:
        raise OSError(16, "Device or resource busy", str(path))

    monkeypatch.setattr(pulling.shutil, "rmtree", busy)
    assert "cannot be deleted: Device or resource busy" in str(typed("remove", "tiny", "--yes").exception)


def test_a_download_that_fails_is_no_wrong_usage(cache: Path, hub: Any) -> None:
    hub.gated = True
    done = typed("pull", "tiny")
    assert done.exit_code == 1
    assert "hf auth login" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_break_is_shown_in_the_list_until_it_is_made_good(
    cache: Path, hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_download, "time", SimpleNamespace(**(vars(time) | {"sleep": lambda seconds: None})))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 16)
    hub.cut_at = 4_300_000
    assert typed("pull", "tiny").exit_code == 1
    assert "unfinished 4." in typed().stdout
    hub.down = False
    done = typed("pull", "tiny")
    assert done.exit_code == 0
    assert "of it missing" in done.stderr
    assert "unfinished" not in typed().stdout


def test_the_original_flag_downloads_before_it_answers() -> None:
    pull, then = translated(["--download", "--prompt", "hello", "--model", "llama3-8b"], discover())
    assert pull == ["models", "pull", "llama3-8b"]
    assert then[:2] == ["prompt", "hello"]


def test_ctrl_c_says_how_to_go_on(cache: Path, hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pulling, "downloaded", interrupted)
    done = typed("pull", "tiny")
    assert done.exit_code == 130
    assert "the same command goes on from there" in done.stderr


def test_big_downloads_need_a_yes(cache: Path, hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulling, "BIG_BYTES", 1_000_000)
    refused = typed("pull", "tiny").exception
    assert isinstance(refused, UsageError)
    assert "say --yes" in str(refused)
    assert not hub.bodies()
    assert typed("pull", "tiny", "--yes").exit_code == 0


@pytest.mark.parametrize(
    ("name", "message"), [("tyni", "did you mean 'tiny'"), ("../x", "No model is called '../x'"), ("tiny", "synthetic")]
)
def test_a_name_that_cannot_be_pulled_is_wrong_usage(cache: Path, name: str, message: str) -> None:
    refused = typed("pull", name).exception
    assert isinstance(refused, UsageError)
    assert message in str(refused)


def test_removing_takes_no_path(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    refused = typed("remove", "../../precious", "--yes").exception
    assert isinstance(refused, UsageError)
    assert (tmp_path / "precious").is_dir()
