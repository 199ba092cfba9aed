"""The reference equals transformers in float32, on shapes that differ from LLaMA's in every way that matters."""

from pathlib import Path

import numpy as np
import pytest
import torch
from enginebench_models.catalogue import entry
from enginebench_models.checkpoint import open_checkpoint
from enginebench_models.fidelity import compare, gate, probe_ids
from enginebench_models.hugging_face import written_folder
from enginebench_models.reference import Reference
from enginebench_models.synthesis import synthesise
from transformers import LlamaForCausalLM

from .hugging_face import ODD_SHAPES, random_model, score, write_gguf

N_PREFILL, N = 64, 128


@pytest.fixture(scope="module", params=list(ODD_SHAPES))
def model(request: pytest.FixtureRequest) -> LlamaForCausalLM:
    return random_model(ODD_SHAPES[request.param])


@pytest.fixture(scope="module")
def ids(model: LlamaForCausalLM) -> list[int]:
    return probe_ids(model.config.vocab_size, N)


@pytest.fixture(scope="module")
def expected(model: LlamaForCausalLM, ids: list[int]) -> np.ndarray:
    return score(model, ids, N_PREFILL)


def reference_logits(path: Path, ids: list[int]) -> np.ndarray:
    return Reference(open_checkpoint(path)).logits(ids, range(N_PREFILL - 1, N))


def test_from_safetensors(model: LlamaForCausalLM, ids: list[int], expected: np.ndarray, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    assert np.abs(reference_logits(tmp_path, ids) - expected).max() < 1e-4


def test_from_shards(model: LlamaForCausalLM, ids: list[int], expected: np.ndarray, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    assert len(open_checkpoint(tmp_path).files) > 1
    assert np.abs(reference_logits(tmp_path, ids) - expected).max() < 1e-4


def test_from_gguf(model: LlamaForCausalLM, ids: list[int], expected: np.ndarray, tmp_path: Path) -> None:
    found = reference_logits(write_gguf(model, tmp_path / "model.gguf"), ids)
    assert np.abs(found - expected).max() < 1e-4
    assert gate(compare(expected, found), "float32").passed


def test_transformers_reads_the_hugging_face_copy_as_the_same_model(tmp_path: Path) -> None:
    """`tiny`: tied, grouped heads, RoPE scaling. Its values are exact in 16 bits, so float32 must agree."""
    source = open_checkpoint(synthesise(entry("tiny").config, tmp_path / "tiny.gguf"))
    folder = written_folder(source, tmp_path / "copies", lambda fraction: None)
    ids = probe_ids(source.config.vocab_size, N)
    found = score(LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32), ids, N_PREFILL)
    assert np.abs(found - Reference(source).logits(ids, range(N_PREFILL - 1, N))).max() < 1e-4


def test_a_gguf_file_whose_keys_were_not_permuted_fails_both_gates(
    model: LlamaForCausalLM, ids: list[int], expected: np.ndarray, tmp_path: Path
) -> None:
    found = reference_logits(write_gguf(model, tmp_path / "model.gguf", permute_k=False), ids)
    fidelity = compare(expected, found)
    assert not gate(fidelity, "float32").passed
    assert not gate(fidelity, "16-bit").passed


def test_the_models_are_sharp_enough_to_tell(expected: np.ndarray) -> None:
    assert expected.std() > 0.5
