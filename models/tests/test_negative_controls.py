"""The fidelity gates on synthetic models: they let rounding pass and catch every fault, with a factor between."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from enginebench_models.bounds import bounds
from enginebench_models.catalogue import entry
from enginebench_models.checkpoint import Checkpoint, open_checkpoint
from enginebench_models.fidelity import (
    FLOAT32_MAX_LOGIT_ERROR,
    MEAN_KLD_16_BIT,
    PROBE_DECODE,
    PROBE_PREFILL,
    compare,
    gate,
    probe_ids,
)
from enginebench_models.greedy import choices, objections
from enginebench_models.reference import Reference
from enginebench_models.storage import Floats
from enginebench_models.synthesis import synthesise

from .faults import Fault, RoundedReference, faults

Model = tuple[Checkpoint, list[int], Floats]


@pytest.fixture(scope="module", params=["tiny", pytest.param("llama3-1b", marks=pytest.mark.slow)])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """A synthetic model, the probe and the reference's answer to it."""
    path: Path = synthesise(entry(request.param).config, tmp_path_factory.mktemp("model") / "model.gguf")
    checkpoint = open_checkpoint(path)
    ids = probe_ids(checkpoint.config.vocab_size, PROBE_PREFILL + PROBE_DECODE)
    yield checkpoint, ids, Reference(checkpoint).logits(ids, range(PROBE_PREFILL - 1, len(ids)))
    path.unlink()


def test_the_cached_path_of_the_reference_passes_the_float32_gate(model: Model) -> None:
    checkpoint, ids, reference = model
    fidelity = compare(reference, Fault(checkpoint).logits(ids, PROBE_PREFILL))
    assert fidelity.n_positions == PROBE_DECODE + 1
    assert gate(fidelity, "float32").passed
    assert fidelity.max_abs_logit < FLOAT32_MAX_LOGIT_ERROR / 10


def test_rounding_to_bfloat16_passes_the_16_bit_gate_by_half_and_not_the_float32_gate(model: Model) -> None:
    checkpoint, ids, reference = model
    rounded = RoundedReference(checkpoint).logits(ids, range(PROBE_PREFILL - 1, len(ids)))
    fidelity = compare(reference, rounded)
    assert gate(fidelity, "16-bit").passed
    assert fidelity.mean_kld < MEAN_KLD_16_BIT / 2
    assert not gate(fidelity, "float32").passed


def test_every_fault_fails_both_gates(model: Model) -> None:
    """One layer's cache is one of many: in float32 it shows at any depth, under 16-bit rounding it need not."""
    checkpoint, ids, reference = model
    for name, fault in faults(checkpoint).items():
        fidelity = compare(reference, fault.logits(ids, PROBE_PREFILL))
        assert not gate(fidelity, "float32").passed, name
        if "of one layer" not in name:
            assert not gate(fidelity, "16-bit").passed, name
            assert fidelity.mean_kld > 10 * MEAN_KLD_16_BIT, name


def test_every_fault_is_caught_by_a_named_rung(model: Model) -> None:
    """G1 divergence, G1b clear likeliest ids, G1c logits, G3 the ids that it would choose."""
    checkpoint, ids, reference = model
    caught = {name: set[str]() for name in faults(checkpoint)}
    for name, fault in faults(checkpoint).items():
        logits = fault.logits(ids, PROBE_PREFILL)
        found, bound = compare(reference, logits), bounds("16-bit")
        if found.mean_kld > bound.mean_kld:
            caught[name].add("G1")
        if found.top1_clear is not None and found.top1_clear < bound.top1_clear:
            caught[name].add("G1b")
        if found.max_shifted_logit is not None and found.max_shifted_logit > bound.shifted_logit:
            caught[name].add("G1c")
        if objections(choices(reference, list(map(int, logits.argmax(axis=1)))), "16-bit"):
            caught[name].add("G3")
    missed = {name for name, rungs in caught.items() if not rungs}
    assert missed <= {"one KV position of one layer overwritten"}
    assert set.union(*caught.values()) == {"G1", "G1b", "G1c", "G3"}
    rounded = RoundedReference(checkpoint).logits(ids, range(PROBE_PREFILL - 1, len(ids)))
    assert objections(choices(reference, list(map(int, rounded.argmax(axis=1)))), "16-bit") == []


def test_logits_are_peaked_and_differ_from_position_to_position(model: Model) -> None:
    _, _, reference = model
    assert 1.0 < reference.std() < 4.0
    assert len(set(reference.argmax(axis=1))) > len(reference) / 2
