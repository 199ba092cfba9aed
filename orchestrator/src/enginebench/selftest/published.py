"""Published numbers that cannot be true, or that look odd: does the plausibility gate see each of them, and no other?

What one token reads: premAI/benchmarks names models and precisions; Mistral-7B streams 7.110 G weights per token and
Llama-2-7B 6.607 G (everything but the embedding table), on an A100 of 2039 GB/s by its data sheet. The last rows are of
the table that this project descends from: LLaMA 3 1B, 1.236 G weights.
"""

from __future__ import annotations

from enginebench.judge.plausibility import NOT_FASTER, Ceiling, Finding, finding
from enginebench.judge.plausibility import Row as Claim

from .page import Row

A100 = Ceiling("the data sheet", 2039e9, 2039e9)
WEIGHTS = {"mistral": 7.110e9, "llama-2": 6.607e9, "llama-3-1b": 1.236e9}
BYTES = {"fp32": 4.0, "fp16": 2.0, "int8": 1.0, "int4": 0.5}

PUBLISHED_TPS: dict[tuple[str, str], dict[str, float]] = {
    ("trt-llm", "mistral"): {"fp32": 117.04, "fp16": 206.59, "int8": 390.49, "int4": 427.40},
    ("trt-llm", "llama-2"): {"fp32": 104.07, "fp16": 191.00, "int8": 316.77, "int4": 358.49},
    ("vllm", "mistral"): {"fp32": 84.91, "fp16": 84.89, "int4": 106.03},
    ("vllm", "llama-2"): {"fp32": 89.40, "fp16": 89.43, "int4": 115.52},
    ("optimum", "mistral"): {"fp32": 50.77, "fp16": 50.91},
}
PUBLISHED_MS = {("pytorch", "fp32"): 24.43, ("pytorch", "fp16"): 24.28, ("tinygrad", "fp16"): 12.29}

IMPOSSIBLE = frozenset(
    {("trt-llm", model, dtype) for model in ("mistral", "llama-2") for dtype in ("fp32", "fp16", "int8")}
    | {("vllm", "mistral", "fp32"), ("vllm", "llama-2", "fp32")}
)
STANDING_STILL = frozenset(
    {
        ("vllm", "mistral", "fp16"),
        ("vllm", "llama-2", "fp16"),
        ("optimum", "mistral", "fp32"),
        ("optimum", "mistral", "fp16"),
        ("pytorch", "llama-3-1b", "fp32"),
        ("pytorch", "llama-3-1b", "fp16"),
    }
)
"""As fast as the row of twice, or half, the bytes. The vLLM script set a dtype that nothing read."""


def claims() -> list[Claim]:
    tables = [
        _claim(engine, model, dtype, 1e9 / tps, A100)
        for (engine, model), row in PUBLISHED_TPS.items()
        for dtype, tps in row.items()
    ]
    own = [_claim(engine, "llama-3-1b", dtype, ms * 1e6, None) for (engine, dtype), ms in PUBLISHED_MS.items()]
    return [*tables, *own]


def _claim(engine: str, model: str, dtype: str, ns: float, ceiling: Ceiling | None) -> Claim:
    return Claim(
        engine=engine,
        configuration=dtype,
        work=(model, "published"),
        bytes_per_token=WEIGHTS[model] * BYTES[dtype],
        ns_per_token=ns,
        slowest_ns_per_token=ns,
        ceiling=ceiling,
    )


def published_rows() -> list[Row]:
    rows = claims()
    found = {(row.engine, row.work[0], row.configuration): finding(row, rows) for row in rows}
    invalid = {key for key, flagged in found.items() if flagged.invalid}
    suspect = {key for key, flagged in found.items() if _stands_still(flagged)}
    return [
        _row("published cells above 100 % of the bandwidth called invalid", invalid, IMPOSSIBLE),
        _row("published rows as fast at half the bytes called suspect", suspect, STANDING_STILL),
    ]


def _stands_still(flagged: Finding) -> bool:
    return any(suspicion.code == NOT_FASTER for suspicion in flagged.suspicions)


def _row(what: str, found: set[tuple[str, str, str]], expected: frozenset[tuple[str, str, str]]) -> Row:
    extra = f", and {len(found - expected)} others" if found - expected else ""
    value = f"{len(found & expected)} of {len(expected)}{extra}"
    return Row(what=what, value=value, target="all, and no other", passed=found == expected)
