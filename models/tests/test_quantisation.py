"""Which weights are quantised, the reference over them, and a gate that sees what an engine may do wrong with them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from enginebench_models.catalogue import entry
from enginebench_models.checkpoint import Checkpoint, open_checkpoint
from enginebench_models.config import LlamaConfig
from enginebench_models.eight_bit import Quantised as Rows
from enginebench_models.fidelity import PROBE_DECODE, PROBE_PREFILL, compare, gate, probe_ids
from enginebench_models.nf4 import LEVELS, Nf4
from enginebench_models.quantisation import KINDS, QuantisedWeights, in_parts, is_quantised
from enginebench_models.reference import Reference
from enginebench_models.reference_cache import reference_logits
from enginebench_models.storage import Floats
from enginebench_models.synthesis import synthesise
from enginebench_models.tensor import Tensor


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(synthesise(entry("tiny").config, tmp_path_factory.mktemp("model") / "tiny.gguf"))


def test_the_matrices_of_the_blocks_and_no_others(tiny: Checkpoint) -> None:
    chosen = {name for name in tiny.names() if is_quantised(name, tiny.tensor(name).shape)}
    assert chosen == {name for name in tiny.names() if name.endswith("_proj")}
    assert len(chosen) == 7 * tiny.config.n_layers


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_a_matrix_are_the_rows_of_the_whole(
    tiny: Checkpoint, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enginebench_models.quantisation.BLOCK_ELEMENTS", 100 * tiny.config.dim)
    stored = tiny.tensor("layers.1.mlp.up_proj")
    whole, parts = KINDS[kind](stored.float32()).float32(), list(in_parts(stored, kind, 3))
    assert [rows.start for rows, _ in parts] == list(range(0, tiny.config.hidden_dim, 100))
    assert np.array_equal(np.concatenate([part.float32() for _, part in parts]), whole)


def test_the_reference_of_a_kind_is_that_of_the_restored_weights_and_is_kept_apart(
    tiny_config: LlamaConfig, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(synthesise(tiny_config, tmp_path / "model.gguf"))
    ids = list(range(3, 23))
    plain, int8, fp8, as_is = (
        np.array(reference_logits(checkpoint, ids, 10, tmp_path, precision))
        for precision in ("", "int8", "fp8", "16-bit")
    )
    assert np.array_equal(plain, as_is)
    expected = Reference(QuantisedWeights(checkpoint, "int8")).logits(ids, range(9, 20))
    assert np.array_equal(int8, expected)
    assert 0 < compare(plain, int8).mean_kld < compare(plain, fp8).mean_kld
    assert len(list(tmp_path.glob("*.npy"))) == 3


class Wrong(QuantisedWeights):
    """Every quantised matrix restored as `restore` does it."""

    def __init__(self, weights: Checkpoint, kind: str, restore: Callable[..., Floats]) -> None:
        super().__init__(weights, kind)
        self.restore = restore

    def tensor(self, name: str) -> Tensor:
        stored = self.weights.tensor(name)
        if not is_quantised(name, stored.shape):
            return stored
        restored = self.restore(KINDS[self.kind](stored.float32()))
        return Tensor(name, stored.shape, "f32", restored, stored.file, stored.offset)


def scales_of_the_next_row(held: Rows) -> Floats:
    return Rows(held.values, np.roll(held.scales, 1)).float32()


def peaks_of_the_next_run(held: Nf4) -> Floats:
    return Nf4(held.codes, np.roll(held.peaks, 1, axis=1)).float32()


def nibbles_swapped(held: Nf4) -> Floats:
    return Nf4(held.codes.reshape(-1, 2)[:, ::-1].reshape(held.codes.shape), held.peaks).float32()


def even_levels(held: Nf4) -> Floats:
    levels = ((np.arange(16) - 7) / np.where(np.arange(16) < 7, 7, 8)).astype(np.float32)
    return held.float32() - LEVELS[held.codes] * peaks(held) + levels[held.codes] * peaks(held)


def one_level_off(held: Nf4) -> Floats:
    """A slip of the table: the level of code 12 is that of code 13."""
    return held.float32() + np.where(held.codes == 12, LEVELS[13] - LEVELS[12], np.float32(0)) * peaks(held)


def peaks(held: Nf4) -> Floats:
    repeated: Floats = np.repeat(held.peaks.astype(np.float32), 64, axis=1)
    return repeated


@dataclass(frozen=True)
class Control:
    kind: str
    restore: Callable[..., Floats]
    passes: bool = False


@pytest.mark.parametrize(
    "control",
    [
        Control("int8", Rows.float32, passes=True),
        Control("nf4", Nf4.float32, passes=True),
        Control("int8", scales_of_the_next_row),
        Control("nf4", peaks_of_the_next_run),
        Control("nf4", nibbles_swapped),
        Control("nf4", even_levels),
        Control("nf4", one_level_off),
    ],
    ids=lambda control: f"{control.kind} {control.restore.__name__}",
)
def test_the_gate_of_a_kind_sees_weights_restored_wrongly(
    tiny: Checkpoint, control: Control, tmp_path_factory: pytest.TempPathFactory
) -> None:
    ids = probe_ids(tiny.config.vocab_size, PROBE_PREFILL + PROBE_DECODE)
    folder = tmp_path_factory.getbasetemp() / "reference of tiny"
    expected = np.array(reference_logits(tiny, ids, PROBE_PREFILL, folder, control.kind))
    found = Reference(Wrong(tiny, control.kind, control.restore)).logits(ids, range(PROBE_PREFILL - 1, len(ids)))
    assert gate(compare(expected, found), control.kind).passed == control.passes


def test_the_gate_sees_nf4_that_was_never_done_or_by_another_recipe(tiny: Checkpoint, tmp_path: Path) -> None:
    """What int8 loses is less than the gate asks for: that it was done shows in the bytes an engine reports."""
    ids = probe_ids(tiny.config.vocab_size, 80)
    plain, int8, nf4 = (np.array(reference_logits(tiny, ids, 40, tmp_path, kind)) for kind in ("", "int8", "nf4"))
    assert not gate(compare(nf4, plain), "nf4").passed
    assert not gate(compare(nf4, int8), "nf4").passed
    assert gate(compare(int8, plain), "int8").passed
