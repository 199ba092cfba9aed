"""Points under the roof: bytes and operations of a token, by hand."""

from __future__ import annotations

from typing import Any

import pytest
from enginebench.judge.roofline import operations_per_token, roofline

SHAPE = {
    "dim": 8, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "head_dim": 2, "hidden_dim": 16, "vocab_size": 100,
}  # fmt: skip
PLAN: dict[str, Any] = {
    "device": "cpu",
    "models": [{"name": "m", "shape": SHAPE}],
    "workloads": [{"name": "w", "n_prompt": 6, "n_gen": 8, "n_depth": 0, "batch_size": 1}],
}


def case(label: str, tps: float, read: int, role: str = "engine", **changes: Any) -> dict[str, Any]:
    engine, _, configuration = label.partition(":")
    rate = {"value": tps, "valid": True, "reasons": [], "interval": [tps * 0.9, tps * 1.1]}
    return {
        "engine": engine, "configuration": configuration, "model": "m", "workload": "w", "role": role, "status": "ok",
        "loaded": {"read_bytes_per_token": read, "kv_cache_bytes": 0 if role == "instrument" else 280, "n_ctx": 14},
        "metrics": {"decode_tps": rate, "mbu": {"value": 0.5}},
    } | changes  # fmt: skip


LIMIT = case("limit:read", 10.0, 4000, "instrument")


def test_a_token_multiplies_each_weight_once_and_attends_to_the_mean_context() -> None:
    """Blocks: 2 × (2 × 8 × 2 × (4 + 2) + 3 × 8 × 16 + 2 × 8) = 1184; table 800, norm 8. Context 6 + 4 = 10."""
    attention = 2 * (2 * 4 * 2 * 10)
    assert operations_per_token(case("a:b", 1.0, 1), PLAN) == 2 * (1184 + 800 + 8 + attention)


def test_bytes_are_weights_and_the_cache_at_the_mean_context() -> None:
    found = roofline([LIMIT, case("a:b", 5.0, 3800)], PLAN)
    limit, point = found.points
    assert (found.limit, found.bytes_per_second) == ("limit:read", 40_000)
    assert (limit.bytes_per_token, limit.intensity) == (4000, None)
    assert point.bytes_per_token == 3800 + 280 / 14 * 10
    assert point.intensity == pytest.approx(2 * (1992 + 320) / 4000)
    assert (point.decode_tps, point.interval, point.share) == (5.0, [4.5, 5.5], 0.5)


def test_without_a_shape_there_are_no_operations_and_without_an_instrument_no_roof() -> None:
    plan = {**PLAN, "models": [{"name": "m", "shape": {"vocab_size": 100}}]}
    found = roofline([case("a:b", 5.0, 3800)], plan)
    assert (found.limit, found.bytes_per_second, found.points[0].intensity) == (None, None, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "invalid"},
        {"loaded": None},
        {"metrics": {"decode_tps": {"value": 5.0, "valid": False, "reasons": ["above-limit"], "interval": None}}},
    ],
)
def test_what_does_not_stand_has_no_point(changes: dict[str, Any]) -> None:
    assert [point.label for point in roofline([LIMIT, case("a:b", 5.0, 1, **changes)], PLAN).points] == ["limit:read"]
