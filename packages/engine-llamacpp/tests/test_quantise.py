"""Files that llama.cpp quantises for us: made once, whole or not at all, and computed with as they are."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_llamacpp.engine import LlamacppEngine
from enginebench_models import disk
from enginebench_models.checkpoint import open_checkpoint
from enginebench_models.fidelity import Fidelity, compare, gate, probe_ids
from enginebench_models.made_weights import made_weights
from enginebench_models.reference import Reference
from enginebench_protocol.errors import EngineFailure

N_PREFILL, N_DECODE = 40, 40
KINDS = {"q8_0": "q8_0", "q4_0": "q4_0", "q4_k_m": "q4_k"}
"""Configuration → class of the gate."""


def distance(engine: LlamacppEngine, weights: Any) -> Fidelity:
    ids = probe_ids(weights.config.vocab_size, N_PREFILL + N_DECODE)
    expected = Reference(weights).logits(ids, range(N_PREFILL - 1, len(ids)))
    return compare(expected, np.asarray(engine.score(array("i", ids), N_PREFILL)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_is_the_model_in_fewer_bits_and_what_is_computed_with(
    engine: LlamacppEngine, loader: Callable[..., Any], tiny: Path, tmp_path: Path, kind: str
) -> None:
    told = loader(engine, tiny, configuration=kind, cache=str(tmp_path))
    assert told.precision == KINDS[kind]
    assert told.weights_fingerprint == open_checkpoint(tiny).fingerprint
    path = Path(told.weights_path)
    assert path.is_relative_to(tmp_path)
    weights = made_weights(path, open_checkpoint(tiny), tmp_path)
    found = distance(engine, weights)
    assert gate(found, told.precision).passed, found
    lost = distance(engine, open_checkpoint(tiny)).mean_kld
    assert lost > 2 * found.mean_kld  # the model before quantising is farther away than its own file


def test_it_is_made_once(engine: LlamacppEngine, loader: Callable[..., Any], tiny: Path, tmp_path: Path) -> None:
    first = loader(engine, tiny, configuration="q8_0", cache=str(tmp_path))
    written = Path(first.weights_path).stat().st_mtime_ns
    again = loader(engine, tiny, configuration="q8_0", cache=str(tmp_path))
    assert ("convert" in first.stages, "convert" in again.stages) == (True, False)
    assert again.weights_path == first.weights_path
    assert Path(again.weights_path).stat().st_mtime_ns == written


def test_what_a_killed_process_left_is_not_taken_for_a_file(
    engine: LlamacppEngine, loader: Callable[..., Any], tiny: Path, tmp_path: Path
) -> None:
    (tmp_path / "quantised").mkdir()
    (tmp_path / "quantised" / "being-made.gguf").write_bytes(b"GGUF half")
    told = loader(engine, tiny, configuration="q4_0", cache=str(tmp_path))
    assert made_weights(Path(told.weights_path), open_checkpoint(tiny), tmp_path)
    assert sorted(path.name for path in (tmp_path / "quantised").iterdir()) == [Path(told.weights_path).name, "lock"]


def test_what_a_killed_process_left_does_not_take_the_room_of_the_next(
    engine: LlamacppEngine, loader: Callable[..., Any], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / "quantised" / "being-made.gguf"
    left.parent.mkdir()
    left.write_bytes(b"GGUF half")
    usage = type("usage", (), {"free": property(lambda self: 0 if left.exists() else 1 << 40)})
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda folder: usage())
    assert Path(loader(engine, tiny, configuration="q4_0", cache=str(tmp_path)).weights_path).is_file()


def test_progress_is_told_while_it_is_made(engine: LlamacppEngine, tiny: Path, tmp_path: Path) -> None:
    from enginebench_protocol.messages import Load

    told: list[tuple[str, float]] = []
    request = Load(
        id=1, configuration="q8_0", model_path=str(tiny), n_ctx=64, device="cpu", threads=1, cache=str(tmp_path),
        scratch=str(tmp_path),
    )  # fmt: skip
    engine.load(request, lambda stage, fraction: told.append((stage, fraction)))
    made = [fraction for stage, fraction in told if stage == "convert"]
    assert made == sorted(made)
    assert made[-1] == 1.0
    assert len(made) > 10


def test_a_file_of_blocks_is_not_quantised_again(
    engine: LlamacppEngine, loader: Callable[..., Any], quantised: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(EngineFailure, match="holds q8_0: quantising starts from") as refused:
        loader(engine, quantised("Q8_0"), configuration="q4_0", cache=str(tmp_path))
    assert refused.value.code == "unsupported"


def test_a_full_disk_is_a_failure_before_the_first_byte(
    engine: LlamacppEngine, loader: Callable[..., Any], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = type("usage", (), {"free": 1000})
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda folder: full)
    with pytest.raises(EngineFailure, match=r"no quantised file: A q8_0 copy .* GB free"):
        loader(engine, tiny, configuration="q8_0", cache=str(tmp_path))
    assert [path.name for path in (tmp_path / "quantised").iterdir()] == ["lock"]


def test_the_gate_fires_when_the_file_it_asks_for_is_another(
    engine: LlamacppEngine, loader: Callable[..., Any], tiny: Path, tmp_path: Path
) -> None:
    """Negative control: answers of q4_0 against the q8_0 file."""
    wide = Path(loader(engine, tiny, configuration="q8_0", cache=str(tmp_path)).weights_path)
    told = loader(engine, tiny, configuration="q4_0", cache=str(tmp_path))
    assert not gate(distance(engine, made_weights(wide, open_checkpoint(tiny), tmp_path)), told.precision).passed
