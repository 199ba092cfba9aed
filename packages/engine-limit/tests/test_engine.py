"""The engine on a small model: which bytes it reads, what it answers, what it refuses."""

import tomllib
from array import array
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from engine_limit import engine as limit
from engine_limit.engine import LimitEngine
from engine_limit.weights import main_dtype, read_per_token, total_bytes
from enginebench_models.catalogue import entry
from enginebench_models.checkpoint import open_checkpoint
from enginebench_models.synthesis import synthesise
from enginebench_protocol.errors import EngineFailure
from enginebench_protocol.messages import Load, Loaded

PACKAGE = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesise(entry("tiny").config, tmp_path_factory.mktemp("model") / "tiny.gguf")


def request_for(path: Path, **changes: object) -> Load:
    fields: dict[str, object] = {
        "id": 1,
        "configuration": "default",
        "model_path": str(path),
        "n_ctx": 64,
        "device": "cpu",
        "threads": 2,
        "cache": "unused",
        "scratch": "unused",
    }
    return Load(**(fields | changes))  # type: ignore[arg-type]


def load(engine: LimitEngine, path: Path, **changes: object) -> Loaded:
    return engine.load(request_for(path, **changes), lambda stage, fraction: None)


def test_a_tied_model_reads_every_weight_once_per_token(tiny: Path) -> None:
    checkpoint = open_checkpoint(tiny)
    assert checkpoint.config.tied_embeddings
    weights = read_per_token(checkpoint)
    assert [w.name for w in weights] == checkpoint.names()
    assert total_bytes(weights) == checkpoint.weight_bytes


def test_an_untied_model_does_not_read_its_embedding_table(tmp_path: Path) -> None:
    config = replace(entry("tiny").config, tied_embeddings=False)
    checkpoint = open_checkpoint(synthesise(config, tmp_path / "untied.gguf"))
    weights = read_per_token(checkpoint)
    assert "embed_tokens" not in [w.name for w in weights]
    assert total_bytes(weights) == checkpoint.weight_bytes - checkpoint.tensor("embed_tokens").data.nbytes


def test_the_dtype_is_that_of_most_bytes_not_of_most_tensors(tiny: Path) -> None:
    weights = read_per_token(open_checkpoint(tiny))
    assert {w.dtype for w in weights} == {"float16", "float32"}
    assert main_dtype(weights) == "float16"


def test_the_report_names_the_bytes_that_a_pass_reads(tiny: Path) -> None:
    loaded = load(LimitEngine(), tiny)
    checkpoint = open_checkpoint(tiny)
    assert loaded.read_bytes_per_token == loaded.weights_bytes == checkpoint.weight_bytes
    assert loaded.weights_fingerprint == checkpoint.fingerprint
    assert (loaded.weight_dtype, loaded.precision, loaded.vocab_size) == ("float16", "none", 4096)


def test_every_token_is_one_pass_and_an_id_of_the_vocabulary(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = LimitEngine()
    loaded = load(engine, tiny)
    passes = []
    read = engine._loaded().read
    monkeypatch.setattr(engine._loaded(), "read", lambda: passes.append(1) or read())
    ids = list(engine.generate(array("i", [1, 2, 3]), 5))
    assert len(ids) == len(passes) == 5
    assert all(0 <= i < loaded.vocab_size for i in ids)
    assert ids == list(engine.generate(array("i", [1, 2, 3]), 5))


def test_the_id_is_made_of_what_was_read(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = LimitEngine()
    load(engine, tiny)
    reader = engine._loaded()
    assert next(engine.generate(array("i", [1]), 1)) == reader.read() % 4096
    before = reader.read()
    reader.fill(0, np.full(4096, 0x55, np.uint8))
    assert reader.read() != before
    monkeypatch.setattr(reader, "read", lambda: 3 * 4096 + 7)
    assert next(engine.generate(array("i", [1]), 1)) == 7


def test_progress_ends_at_one(tiny: Path) -> None:
    seen: list[tuple[str, float]] = []
    LimitEngine().load(request_for(tiny), lambda stage, fraction: seen.append((stage, fraction)))
    assert seen[-1] == ("read", 1.0)
    assert sorted(fraction for _, fraction in seen) == [fraction for _, fraction in seen]


def test_a_missing_model_is_a_bad_model(tmp_path: Path) -> None:
    with pytest.raises(EngineFailure, match=r"nowhere\.gguf") as caught:
        load(LimitEngine(), tmp_path / "nowhere.gguf")
    assert caught.value.code == "bad-model"


def test_an_unknown_device_is_unsupported(tiny: Path) -> None:
    with pytest.raises(EngineFailure, match="'abacus'") as caught:
        load(LimitEngine(), tiny, device="abacus")
    assert caught.value.code == "unsupported"


def test_no_room_is_out_of_memory(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(n_bytes: int, threads: int) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(limit, "CpuReader", refuse)
    with pytest.raises(EngineFailure, match=r"0\.01 GB") as caught:
        load(LimitEngine(), tiny)
    assert caught.value.code == "out-of-memory"


def test_it_has_no_logits(tiny: Path) -> None:
    with pytest.raises(EngineFailure) as caught:
        LimitEngine().score(array("i", [1]), 1)
    assert caught.value.code == "unsupported"


def test_unloading_gives_the_memory_back(tiny: Path) -> None:
    engine = LimitEngine()
    loaded = load(engine, tiny)
    assert engine.memory().weights_bytes == loaded.weights_bytes
    engine.unload()
    with pytest.raises(EngineFailure, match="no model"):
        next(engine.generate(array("i", [1]), 1))


def test_the_table_in_pyproject_names_the_same_configurations() -> None:
    table = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["tool"]["enginebench"]["engine"]
    described = {name: c["description"] for name, c in table["configurations"].items()}
    assert (table["name"], described) == (LimitEngine.name, dict(LimitEngine.configurations))
