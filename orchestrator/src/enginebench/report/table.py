"""The side-by-side table of a result: for a terminal, as Markdown, as JSON. As rows for other formats: case_sheet.py.

Columns are defined once, in COLUMNS. A case that failed the fidelity gate shows no speed. What a cell cannot say is a
numbered note below the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from enginebench.counted import counted
from enginebench.judge.metrics import GATE_FAILED, GATE_MISSING
from enginebench.judge.plain_case import by_work, label
from enginebench.machine.gates import launch_warnings, noise_warnings
from enginebench.plain_text import harmless_json, printable
from enginebench.store.result import dumped

from . import fairness, marks, quantisation, verdicts
from .formats import NONE, markdown_escaped, markdown_row, plain_table, rounded
from .sharding import shard_remark
from .warmup import warmup_remark

STDERR_LINES = 3
SYNTHETIC = "synthetic weights: text means nothing; speed of a dense model does not depend on the values"
LEGEND = (
    "cold: first token of a process's first request, with compilation; TTFT, TPOT: time to first token, time per "
    "output token after it; ±: half the 95 % interval over launches; max: from the shortest gap; memory: peak of the "
    "process tree, or of the device on a GPU; MBU: bytes read per second, of what the limit row reached; ?: suspect, "
    "[ ]: not quite the same conditions as the other rows, see its note"
)


@dataclass
class Notes:
    """Numbered notes; the same text keeps its number."""

    texts: list[str] = field(default_factory=list)

    def number(self, text: str) -> int:
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text) + 1


@dataclass(frozen=True)
class Column:
    """`priority`: a narrow terminal drops the highest first; 0 stays."""

    title: str
    unit: str
    cell: Callable[[dict[str, Any]], str]
    priority: int = 0
    left: bool = False
    optional: bool = False
    """Not shown where no case has anything to say in it."""

    @property
    def heading(self) -> str:
        return f"{self.title} {self.unit}".strip()


def number(name: str, scale: float = 1.0) -> Callable[[dict[str, Any]], str]:
    """Case → the metric ÷ scale, to three or four digits; "!" marks an invalid value."""

    def cell(case: dict[str, Any]) -> str:
        metric = case["metrics"].get(name)
        if metric is None or metric["value"] is None or is_withheld(metric):
            return NONE
        return rounded(metric["value"] / scale) + ("" if metric["valid"] else "!")

    return cell


def is_withheld(metric: dict[str, Any]) -> bool:
    """A speed without a passed fidelity gate is not shown."""
    return GATE_FAILED in metric["reasons"] or GATE_MISSING in metric["reasons"]


def _label(case: dict[str, Any]) -> str:
    return marks.marked(case, label(case))


def _dtype(case: dict[str, Any]) -> str:
    return case["loaded"]["weight_dtype"] if case["loaded"] else NONE


def _half_width(case: dict[str, Any]) -> str:
    """Half the 95 % interval of the decode rate, in percent of it."""
    metric = case["metrics"].get("decode_tps")
    if metric is None or not metric["interval"] or not metric["value"] or is_withheld(metric):
        return NONE
    low, high = metric["interval"]
    return f"{(high - low) / 2 / metric['value'] * 100:.1f}"


def _peak_memory(case: dict[str, Any]) -> str:
    on_device = number("device_peak_memory_bytes", 1e9)(case)
    return on_device if on_device != NONE else number("peak_memory_bytes", 1e9)(case)


def _fidelity(case: dict[str, Any]) -> str:
    """The distance that the gate looked at and its verdict; for a case that did not come so far, its status."""
    reading = case["fidelity"]
    if reading is None:
        return case["status"] if case["status"] != "ok" else NONE
    name, value = ("KLD", reading["mean_kld"])
    if reading["precision"] == "float32":
        name, value = ("|Δ|", reading["max_abs_logit"])
    if reading.get("top_logprobs"):  # a lower bound, from the likeliest ids alone
        name = f"{name} (top {reading['top_logprobs']}) ≥"
    verdict = "pass" if reading["passed"] else "FAIL"
    return f"{name} {'NaN' if value is None else f'{value:.0e}'} {verdict}"


COLUMNS = (
    Column("rank", "", verdicts.rank, optional=True),
    Column("case", "", _label, left=True),
    Column("weights", "", _dtype, priority=3, left=True),
    Column("load", "s", number("load_ns", 1e9), priority=1),
    Column("cold", "ms", number("first_request_ttft_ns", 1e6), priority=4),
    Column("TTFT", "ms", number("ttft_ns", 1e6), priority=2),
    Column("TPOT", "ms", number("tpot_ns", 1e6)),
    Column("prefill", "tok/s", number("prefill_tps"), priority=5),
    Column("decode", "tok/s", number("decode_tps")),
    Column("±", "%", _half_width, priority=6),
    Column("max", "tok/s", number("peak_decode_tps"), priority=7),
    Column("memory", "GB", _peak_memory),
    Column("MBU", "%", number("mbu", 0.01)),
    Column("fidelity", "", _fidelity, left=True),
)


# ---- rows, headers and notes ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Section:
    """One table: the cases of one model and workload, in the order of the plan; its rows, and what is said above and
    below."""

    model: str
    workload: str
    cases: list[dict[str, Any]]
    above: list[str]
    rows: list[list[str]]
    notes: list[str]
    compared: list[str]
    ended: list[str]
    noise: list[str]

    @property
    def below(self) -> list[str]:
        return [*self.compared, *self.ended, *self.noise, LEGEND]


def sections(result: dict[str, Any]) -> Iterator[Section]:
    for model, workload, cases in by_work(result):
        notes = Notes()
        ordered = fairness.in_classes(sorted(cases, key=_rank), result["plan"])
        rows = [_row(case, notes) for case in ordered]
        compared = map(printable, verdicts.verdict_lines(result, model["name"], workload["name"]))
        yield Section(
            model=model["name"],
            workload=workload["name"],
            cases=cases,
            above=_above(result, model, workload, ordered),
            rows=rows,
            notes=notes.texts,
            compared=list(compared),
            ended=_ended(result["plan"]),
            noise=noise_lines(result),
        )


def _rank(case: dict[str, Any]) -> tuple[int, float]:
    """Instruments first, then by decode rate; what has no speed comes last."""
    if case["status"] != "ok":
        return ("invalid", "failed", "unavailable").index(case["status"]) + 2, 0.0
    rate = case["metrics"]["decode_tps"]["value"]
    return 0 if case["role"] == "instrument" else 1, -(rate or 0.0)


def _row(case: dict[str, Any], notes: Notes) -> list[str]:
    numbers = sorted({notes.number(printable(text)) for text in _remarks(case)})
    return [*(printable(column.cell(case)) for column in COLUMNS), ",".join(map(str, numbers))]


def _remarks(case: dict[str, Any]) -> Iterator[str]:
    """What the row's cells cannot say."""
    if case["status"] != "ok":
        yield _objection(case) + _last_words(case)
        return
    if case["reason"]:
        yield case["reason"]
    if (shared := shard_remark(case)) is not None:
        yield shared
    if case["loaded"].get("shared_server"):
        yield "a server that ran before: others may use it too; its memory is not shown"
    overhead = case["metrics"].get("serving_overhead", {}).get("value")
    if overhead is not None:
        yield f"serving overhead {overhead - 1:+.1%}: time per token at the client against the server's own clock"
    decode, mbu = case["metrics"]["decode_tps"], case["metrics"]["mbu"]
    if decode["reasons"]:
        yield f"decode: {'; '.join(decode['reasons'])}"
    if not mbu["valid"] and case["role"] == "engine":
        yield f"MBU: {'; '.join(mbu['reasons'])}"
    if (warmed := warmup_remark(case)) is not None:
        yield warmed
    if (found := case.get("outliers")) and (odd := sum(found.values()) - found["of"]):
        severe = found["slow_severe"] + found["fast_severe"]
        yield f"{odd} of {found['of']} requests are outliers, {severe} of them severe: kept"
    yield from marks.remarks(case)


def _objection(case: dict[str, Any]) -> str:
    reason: str = case["reason"]
    if reason.startswith(GATE_FAILED):
        return f"no speed: failed fidelity{reason.removeprefix(GATE_FAILED)}"
    return f"{case['status']}: {reason}"


def _last_words(case: dict[str, Any]) -> str:
    failures = [launch["failure"] for launch in case["launches"] if launch["failure"]]
    lines = failures[-1]["stderr_tail"][-STDERR_LINES:] if failures and case["status"] == "failed" else []
    return f" | stderr: {' / '.join(lines)}" if lines else ""


def _above(
    result: dict[str, Any], model: dict[str, Any], workload: dict[str, Any], cases: Sequence[dict[str, Any]]
) -> list[str]:
    plan, environment = result["plan"], result["environment"]
    kind = SYNTHETIC if model["weights"] == "synthetic" else "real weights"
    lines = [
        f"{model['name']}, {model['format']}, {model['file_bytes'] / 1e9:.2f} GB: {kind}",
        f"{_work_done(workload)}; {_device(plan, environment)}",
        f"{_repetition(plan)}; {environment['date'][:10]}, run {result['run_id']}",
    ]
    if (fair := fairness.fairness_line(result, cases)) is not None:
        lines.append(fair)
    if plan["left_out"]:
        lines.append(f"left out: {'; '.join(plan['left_out'])}")
    if resumed := plan.get("resumed"):
        lines.append(f"interrupted and resumed {counted(len(resumed), 'time')}, last on {resumed[-1]['resumed_at']}")
    return [printable(line) for line in lines]


def _work_done(workload: dict[str, Any]) -> str:
    depth = f"{workload['n_depth']} tokens of context, " if workload["n_depth"] else ""
    tokens = f"{depth}{workload['n_prompt']} prompt tokens, {workload['n_gen']} generated"
    return f"{workload['name']}: {tokens}, batch {workload['batch_size']}"


def _repetition(plan: dict[str, Any]) -> str:
    launches, requests = counted(plan["launches"], "launch"), counted(plan["iterations"], "request")
    return f"preset {plan['preset']}: {launches} x {requests} (after {plan['warmup']} warm-up)"


def _device(plan: dict[str, Any], environment: dict[str, Any]) -> str:
    threads = counted(plan["threads"], "thread")
    gpus = environment["gpus"] or []
    if plan["device"] == "cuda" and gpus:
        return f"{gpus[0]['name']} (driver {gpus[0]['driver']}), {threads} on the host"
    return f"{plan['device']}: {environment['cpu']['model']}, {threads}"


def _ended(plan: dict[str, Any]) -> list[str]:
    lines = []
    if not plan.get("verdicts", False):
        lines.append(f"preset {plan['preset']} is indicative: too few launches for verdicts on differences")
    if (ended := verdicts.stopping_line(plan)) is not None:
        lines.append(ended)
    return [printable(line) for line in lines]


def noise_lines(result: dict[str, Any]) -> list[str]:
    environment = result["environment"]
    lines = [
        *noise_warnings(environment.get("noise_before"), environment.get("noise_after")),
        *launch_warnings(launch for case in result["cases"] for launch in case["launches"]),
    ]
    return [printable(line) for line in lines]


# ---- forms ----------------------------------------------------------------------------------------------------


class ResultTable:
    """Rich renderable: as many columns as the terminal is wide, readable without colour."""

    def __init__(self, result: dict[str, Any]) -> None:
        self._result = result

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for section in sections(self._result):
            kept = fitting_columns(section.rows, options.max_width)
            yield from map(Text, section.above)
            yield _rich_rows(section.rows, kept)
            for index, note in enumerate(section.notes, start=1):
                yield Text(f"{index:>2}  {note}")
            yield from map(Text, section.below)
            dropped = [COLUMNS[i].heading for i in used_columns(section.rows) if i not in kept]
            if dropped:
                yield Text(f"not shown at this width: {', '.join(dropped)} (-o md shows all)")
        if quantised := quantisation.quantisation_rows(self._result):
            yield from (Text(""), Text(quantisation.TITLE), quantisation.rich_rows(quantised))
            yield from map(Text, [*quantisation.remarks(self._result), quantisation.LEGEND])


def rich_table(result: dict[str, Any]) -> ResultTable:
    return ResultTable(result)


def fitting_columns(rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """Indexes of the columns that fit beside each other; the column of note numbers is always there and not counted."""
    kept = used_columns(rows)
    notes_width = max([len("note"), *(cell_len(row[-1]) for row in rows)])
    while sum(_width(i, rows) + 2 for i in kept) + notes_width + 2 > width:
        candidates = [i for i in kept if COLUMNS[i].priority > 0]
        if not candidates:
            break
        kept.remove(max(candidates, key=lambda i: COLUMNS[i].priority))
    return kept


def used_columns(rows: Sequence[Sequence[str]]) -> list[int]:
    return [i for i, column in enumerate(COLUMNS) if not column.optional or any(row[i] for row in rows)]


def _width(index: int, rows: Sequence[Sequence[str]]) -> int:
    column = COLUMNS[index]
    return max([cell_len(column.title), cell_len(column.unit), *(cell_len(row[index]) for row in rows)])


def _rich_rows(rows: Sequence[Sequence[str]], kept: Sequence[int]) -> Table:
    table = plain_table()
    for index in kept:
        column = COLUMNS[index]
        heading = Text(f"{column.title}\n{column.unit}")
        table.add_column(heading, justify="left" if column.left else "right", no_wrap=True)
    table.add_column("note", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(row[index]) for index in kept), Text(row[-1]))
    return table


def markdown(result: dict[str, Any]) -> str:
    """All columns, headers as lines, notes as a numbered list."""
    lines = [line for section in sections(result) for line in _markdown_lines(section)]
    return "\n".join([*lines, *quantisation.markdown_lines(result)]) + "\n"


def _markdown_lines(section: Section) -> Iterator[str]:
    yield from (f"{markdown_escaped(line)}  " for line in section.above)
    yield ""
    used = used_columns(section.rows)
    yield markdown_row([*(COLUMNS[i].heading for i in used), "note"])
    yield markdown_row([*("---" if COLUMNS[i].left else "---:" for i in used), "---"])
    yield from (markdown_row([*(row[i] for i in used), row[-1]]) for row in section.rows)
    yield ""
    yield from (f"{index}. {markdown_escaped(note)}" for index, note in enumerate(section.notes, start=1))
    yield from ([""] if section.notes else [])
    yield from (f"{markdown_escaped(line)}  " for line in section.below)


def to_json(result: dict[str, Any]) -> str:
    """The result itself, unrounded."""
    return harmless_json(dumped(result).rstrip("\n"))
