"""The table "quantisation impact": bytes, speed, divergence and perplexity of each quantised case against its base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from enginebench.plain_text import printable

from .formats import NONE, markdown_row, plain_table, rounded

TITLE = "quantisation impact"
HEADS = ("case", "against", "weights GB", "MB/token", "decode", "prefill", "KLD", "same top-1", "perplexity")
LEGEND = (
    "quantisation impact: the weights before quantising are the measure. (0.5x): share of the base's bytes; decode, "
    "prefill: speed of the quantised case ÷ its base's, with the 95 % interval where launches suffice; KLD: mean "
    "divergence in nats of its answers from the unquantised float32 reference's, ± standard error; perplexity: of the "
    "probe's ids, change against that reference"
)

Row = Mapping[str, Any]


def quantisation_rows(result: Row) -> list[list[str]]:
    """Cells of each row, none where nothing quantised stands; models and workloads are named if there are several."""
    several = len(result["plan"]["models"]) > 1 or len(result["plan"]["workloads"]) > 1
    return [[printable(cell) for cell in _cells(impact, several)] for impact in result.get("quantisation", [])]


def _cells(impact: Row, several: bool) -> Iterator[str]:
    yield _name(impact["new"], several)
    yield _name(impact["base"], several).removeprefix(_engine(impact["new"])) if impact["base"] else NONE
    yield _bytes(impact, "weights_bytes", 1e9)
    yield _bytes(impact, "read_bytes_per_token", 1e6)
    yield _ratio(impact, "decode")
    yield _ratio(impact, "prefill")
    yield _divergence(impact)
    yield NONE if impact.get("top1") is None else f"{impact['top1']:.0%}"
    yield _perplexity(impact)


def _name(case_id: str, several: bool) -> str:
    label, model, workload, *rest = case_id.split("/")
    return " ".join([label, *rest, *([model, workload] if several else [])])


def _engine(case_id: str) -> str:
    return case_id.partition(":")[0] + ":"


def _bytes(impact: Row, name: str, scale: float) -> str:
    base = impact.get(f"base_{name}")
    share = f" ({impact[name] / base:.2f}x)" if base else ""
    return rounded(impact[name] / scale) + share


def _ratio(impact: Row, word: str) -> str:
    ratio, interval = impact.get(f"{word}_ratio"), impact.get(f"{word}_interval_95")
    if ratio is None:
        return NONE
    return f"{ratio:.2f}x" + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")


def _divergence(impact: Row) -> str:
    if impact.get("mean_kld") is None:
        return NONE
    least = f"(top {impact['top_logprobs']}) ≥ " if impact.get("top_logprobs") else ""
    error = impact.get("mean_kld_error")
    return f"{least}{impact['mean_kld']:.1e}" + (f" ± {error:.0e}" if error is not None else "")


def _perplexity(impact: Row) -> str:
    ratio, error = impact.get("ppl_ratio"), impact.get("ppl_ratio_error")
    if ratio is None:
        return NONE
    return f"{ratio - 1:+.1%}" + (f" ± {error:.1%}" if error is not None else "")


def remarks(result: Row) -> list[str]:
    """What a dash of the table stands for."""
    reasons: dict[str, list[str]] = {}
    for impact in result.get("quantisation", []):
        for reason in impact.get("reasons", []):
            reasons.setdefault(reason, []).append(_name(impact["new"], several=False))
    return [printable(f"{', '.join(names)}: {reason}") for reason, names in reasons.items()]


def rich_rows(rows: Sequence[Sequence[str]]) -> Table:
    table = plain_table()
    for number, head in enumerate(HEADS):
        table.add_column(Text(head), justify="left" if number < 2 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def markdown_lines(result: Row) -> Iterator[str]:
    """Empty where nothing quantised stands."""
    rows = quantisation_rows(result)
    if not rows:
        return
    yield from (f"### {TITLE}", "", markdown_row(HEADS))
    yield markdown_row(["---"] * 2 + ["---:"] * (len(HEADS) - 2))
    yield from map(markdown_row, rows)
    yield from ("", *(f"{line}  " for line in [*remarks(result), LEGEND]))
