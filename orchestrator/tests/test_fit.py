"""Whether a model fits: the formulas by hand, and against the memory that engines were measured to take."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from enginebench.cli.models import standing
from enginebench.plan.fit import LEAST_CONTEXT, RUNTIME_BYTES, Need, exceeds_context, need, verdict
from enginebench.plan.workload import parsed
from enginebench.report.models import Memory
from enginebench.workspace.discovery import ROOT
from enginebench_models.catalogue import entry
from enginebench_models.config import LlamaConfig

WORKLOAD = parsed("pp128+tg64")
REFERENCES = sorted((ROOT / "results" / "reference").glob("*/result.json"))


@pytest.fixture
def small() -> LlamaConfig:
    """Untied, of one block: to be counted by hand."""
    return LlamaConfig(
        dim=4, n_layers=1, n_heads=2, n_kv_heads=1, head_dim=2, hidden_dim=8, vocab_size=10,
        norm_eps=1e-5, rope_theta=1e4, max_context=4096, tied_embeddings=False,
    )  # fmt: skip


def test_weights_and_cache_by_hand(small: LlamaConfig) -> None:
    matrices = 4 * 4 + 2 * 4 * 2 + 4 * 4 + 3 * 4 * 8  # q, k and v, o, gate, up and down
    plain = 2 * 10 * 4 + 3 * 4  # the embedding table and the output matrix, three norms
    rows = 4 + 2 + 2 + 4 + 8 + 8 + 4
    found = {name: need(small, name, WORKLOAD) for name in ("float32", "16-bit", "int8", "nf4")}
    assert found["float32"].weights_bytes == 4 * (matrices + plain) == 4 * small.weight_elements()
    assert found["16-bit"].weights_bytes == 2 * (matrices + plain)
    assert found["int8"].weights_bytes == matrices + 4 * rows + 2 * plain
    assert found["nf4"].weights_bytes == int(matrices * 0.53125) + 2 * plain
    assert found["float32"].kv_cache_bytes == 192 * 2 * 2 * 4  # positions, keys and values, one head of two, float32
    assert found["nf4"].kv_cache_bytes == 192 * 2 * 2 * 2
    activations = 4 * (128 * (3 * 4 + 4 + 2 * 2 + 2 * 8) + 10)
    assert found["16-bit"].workspace_bytes == RUNTIME_BYTES + activations


def test_shards_divide_the_matrices_and_the_cache_but_no_head(small: LlamaConfig) -> None:
    whole, half = need(small, "16-bit", WORKLOAD), need(small, "16-bit", WORKLOAD, shards=2)
    plain = 2 * (2 * 10 * 4 + 3 * 4)
    assert half.weights_bytes == plain + (whole.weights_bytes - plain) // 2
    assert half.kv_cache_bytes == whole.kv_cache_bytes  # one key/value head cannot be halved
    assert half.workspace_bytes == whole.workspace_bytes


def test_a_short_request_still_has_the_least_cache(small: LlamaConfig) -> None:
    assert need(small, "16-bit", parsed("pp8+tg4")).kv_cache_bytes == LEAST_CONTEXT * small.kv_bytes_per_token(2)


@pytest.mark.parametrize(
    ("has", "words"),
    [
        (200, "fits"),
        (199, "fits with int8"),
        (100, "fits with int8"),
        (99, "fits with nf4"),
        (59, "does not fit: needs 60.0 GB with nf4, has 59.0 GB"),
    ],
)
def test_the_verdict_names_the_first_precision_that_fits(has: int, words: str) -> None:
    needs = {"float32": 400, "16-bit": 200, "int8": 100, "nf4": 60}
    assert verdict({name: size * 10**9 for name, size in needs.items()}, has * 10**9) == words


def test_known_sizes_come_out() -> None:
    """Llama 3 70B has 70,553,706,496 weights."""
    assert need(entry("llama3-70b").config, "16-bit", WORKLOAD).weights_bytes == 141_107_412_992


def test_a_model_on_gpus_is_held_against_the_smallest_of_them() -> None:
    model, gib = entry("llama3-8b"), 2**30
    two = Memory(64 * gib, [24 * gib, 12 * gib])
    assert standing(model, WORKLOAD, 1, two).device == "fits"
    assert standing(model, WORKLOAD, 2, two).device == "fits"
    assert standing(model, WORKLOAD, 2, Memory(64 * gib, [24 * gib, 8 * gib])).device == "fits with int8"
    assert standing(model, WORKLOAD, 4, two).device == "does not fit: 4 GPUs asked for, this machine has 2"
    assert standing(model, WORKLOAD, 1, Memory(64 * gib)).device is None


def test_ranks_on_a_processor_share_its_memory() -> None:
    model = entry("llama3-8b")
    alone, eight = (standing(model, WORKLOAD, shards, Memory(20 * 10**9)).host for shards in (1, 8))
    assert alone == "fits"
    assert eight != "fits"


def test_a_context_that_is_too_long_is_no_question_of_memory() -> None:
    found = standing(entry("llama3-8b"), parsed("pp8192+tg128"), 1, Memory(10**12, [10**12]))
    assert found.host == found.device == "8320 tokens exceed its context of 8192"
    assert not exceeds_context(entry("llama3-8b").config, WORKLOAD)


# Against measured memory -------------------------------------------------------------------------------------------

WEIGHTS_MARGIN = 0.11
"""All engines keep what the formula says within 0.1 %, but one, which has the tied table twice in float32."""
OVERESTIMATE_BYTES = 1_500_000_000


def measured(path: Path) -> list[dict[str, Any]]:
    """Cases of catalogue models on a processor whose memory was read."""
    cases = json.loads(path.read_text())["cases"]
    return [
        case
        for case in cases
        if case["status"] == "ok"
        and case["role"] == "engine"
        and case["loaded"]["precision"] in ("float32", "16-bit")
        and case["metrics"]["peak_memory_bytes"]["value"]
        and not case["metrics"]["device_peak_memory_bytes"]["value"]
    ]


def objections(case: dict[str, Any], claimed: Need) -> list[str]:
    value = {name: case["metrics"][f"{name}_bytes"]["value"] for name in ("peak_memory", "model_memory", "kv_cache")}
    found = []
    if not 0.999 <= value["model_memory"] / claimed.weights_bytes <= 1 + WEIGHTS_MARGIN:
        found.append("weights")
    if not claimed.kv_cache_bytes <= value["kv_cache"] <= 2.1 * claimed.kv_cache_bytes:  # rounded up; kept in float32
        found.append("cache")
    if not 0 <= claimed.total_bytes - value["peak_memory"] <= OVERESTIMATE_BYTES:
        found.append("peak")
    return found


@pytest.mark.parametrize("path", REFERENCES, ids=lambda path: path.parent.name)
def test_measured_memory_is_what_was_claimed_within_the_stated_margin(path: Path) -> None:
    cases = measured(path)
    assert len(cases) >= 5
    for case in cases:
        workload = parsed(case["workload"])
        claimed = need(entry(case["model"]).config, case["loaded"]["precision"], workload)
        assert objections(case, claimed) == [], f"{case['engine']}:{case['configuration']}"


@pytest.mark.parametrize(("precision", "accounted_bytes"), [("int8", 5_293_056), ("nf4", 3_777_536)])
def test_quantised_weights_are_what_an_engine_accounted_for(precision: str, accounted_bytes: int) -> None:
    """Of `tiny`, by a row that quantises after reading (2026-11-21); its norms are float32, 4,608 bytes more."""
    assert accounted_bytes - need(entry("tiny").config, precision, WORKLOAD).weights_bytes == 9 * 256 * 2


def test_a_formula_that_forgets_something_is_noticed() -> None:
    """The negative control."""
    case = measured(REFERENCES[-1])[0]
    claimed = need(entry(case["model"]).config, case["loaded"]["precision"], parsed(case["workload"]))
    assert "weights" in objections(case, replace(claimed, weights_bytes=claimed.weights_bytes // 2))
    assert "cache" in objections(case, replace(claimed, kv_cache_bytes=claimed.kv_cache_bytes * 4))
    assert objections(case, replace(claimed, workspace_bytes=0)) == ["peak"]
    assert objections(case, replace(claimed, workspace_bytes=4 * RUNTIME_BYTES)) == ["peak"]
