"""The tables of docs/fairness.md: from the engines' tables, from the newest reference run, and from published numbers.

A stored run is judged again by the rules of today: it may be older than some of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from enginebench.judge import plausibility
from enginebench.judge.brackets import bracketed
from enginebench.judge.plain_case import case_id, label
from enginebench.report.formats import NONE, Sheet, markdown, rounded
from enginebench.workspace.discovery import EngineInfo

PRECISION = "precision impact"
PUBLISHED = (
    ("TinyGrad", "mixed", 12.29, 5.59),
    ("PyTorch, optimised", "float16", 24.28, 3.06),
    ("PyTorch, baseline", "float32", 24.43, 6.10),
)
"""Row, precision as it was called, ms per token, GB of memory: the table that this project descends from."""
HALF_OF_1B_GB = 2.472
"""1.236 G weights of 16 bits."""


def tables(result: Mapping[str, Any], engines: Mapping[str, EngineInfo]) -> dict[str, str]:
    """Name → what stands between its marks."""
    judged = bracketed(plausibility.judged(result))
    return {
        "choices": markdown(Sheet.of("choices", list(_choices(engines)))),
        "classes": markdown(Sheet.of("classes", list(_classes(judged)))),
        "halves": markdown(Sheet.of("halves", list(_halves(judged, engines)))),
        "published": markdown(Sheet.of("published", list(_published()))),
    }


def _choices(engines: Mapping[str, EngineInfo]) -> Iterator[dict[str, Any]]:
    for info in engines.values():
        if info.role == "engine":
            box = "the same" if info.out_of_the_box == info.fair else _described(info, info.out_of_the_box)
            yield {"engine": f"`{info.name}`", "fair": _described(info, info.fair), "out of the box": box}


def _described(info: EngineInfo, name: str) -> str:
    return f"`{name}`: {info.configurations[name].description}"


def _classes(result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    standing = [case for case in result["cases"] if case["status"] == "ok" and case["role"] == "engine"]
    for case in sorted(standing, key=lambda case: (case["loaded"]["precision"], _ms(case))):
        loaded, mbu = case["loaded"], case["metrics"]["mbu"]["value"]
        yield {
            "class": loaded["precision"],
            "case": label(case),
            "weights": loaded["weight_dtype"],
            "KV cache": loaded["kv_dtype"],
            "activations": loaded["activation_dtype"],
            "GB read per token": rounded(loaded["read_bytes_per_token"] / 1e9),
            "ms per token": rounded(_ms(case)),
            "MBU %": rounded(100 * mbu),
            "marks": "?" if case["suspicions"] else NONE,
        }


def _halves(result: Mapping[str, Any], engines: Mapping[str, EngineInfo]) -> Iterator[dict[str, Any]]:
    """What a table calls the precision impact, where both of its ends were measured."""
    cases = {case_id(case): case for case in result["cases"] if case["status"] == "ok"}
    for id_, case in cases.items():
        base_name = engines[case["engine"]].configurations[case["configuration"]].compares.get(PRECISION)
        base = cases.get(id_.replace(f":{case['configuration']}/", f":{base_name}/"))
        if base is not None:
            bytes_ratio = base["loaded"]["read_bytes_per_token"] / case["loaded"]["read_bytes_per_token"]
            yield {
                "case": f"{label(case)} against {label(base)}",
                "fewer bytes": f"{bytes_ratio:.2f}x",
                "faster": f"{_ms(base) / _ms(case):.2f}x",
            }


def _published() -> Iterator[dict[str, Any]]:
    for row, precision, ms, gigabytes in PUBLISHED:
        yield {
            "published row": row,
            "called": precision,
            "ms per token": f"{ms:.2f}",
            "GB of memory": f"{gigabytes:.2f}",
            "GB/s if all of it is read": rounded(gigabytes / ms * 1e3),
            "GB/s if 16 bits are read": rounded(HALF_OF_1B_GB / ms * 1e3),
        }


def _ms(case: Mapping[str, Any]) -> float:
    return float(case["metrics"]["tpot_ns"]["value"]) / 1e6
