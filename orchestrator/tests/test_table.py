"""The table: what is shown, what is withheld, in which order, and how wide."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from enginebench.judge import plausibility
from enginebench.judge.assemble import CaseFacts, assemble
from enginebench.report.case_sheet import case_sheet
from enginebench.report.formats import rounded, to_csv
from enginebench.report.table import COLUMNS, ResultTable, markdown, rich_table, to_json
from rich.console import Console

ROLES = {"limit": "instrument"}


def launches_of(records: Any, label: str, ms: float, **check: Any) -> list[Any]:
    """An admitted case with one launch of two requests whose gaps are `ms` long."""
    engine, _, configuration = label.partition(":")
    case = records.case(engine, configuration)
    requests = [records.request(i, (10, 10 + ms, 10 + 2 * ms)) for i in range(2)]
    return [records.check(case, **check), records.timed(requests, case)]


def table_of(records: Any, cases: Mapping[str, list[Any] | str], **facts: Any) -> dict[str, Any]:
    """A result of the labelled cases; a text instead of launches makes a case unavailable."""
    described = [
        CaseFacts(
            records.case(*label.split(":")),
            ROLES.get(label.split(":")[0], "engine"),
            unavailable=launches if isinstance(launches, str) else None,
        )
        for label, launches in cases.items()
    ]
    all_launches = [launch for launches in cases.values() if not isinstance(launches, str) for launch in launches]
    return assemble("r1", records.environment(), records.plan(**facts), described, all_launches)


def full(records: Any) -> dict[str, Any]:
    died = records.failure(reason="signal", message="killed by signal 9", stderr_tail=["a", "b", "out of", "memory"])
    return table_of(
        records,
        {
            "tensorrt:basic": "needs an NVIDIA GPU",
            "torch:baseline": launches_of(records, "torch:baseline", 8, fidelity=records.fidelity(precision="float32")),
            "tinygrad:beam": [records.check(records.case("tinygrad", "beam"), failure=died, fidelity=None)],
            "torch:half": launches_of(records, "torch:half", 4),
            "tinygrad:default": launches_of(records, "tinygrad:default", 1, fidelity=records.fidelity(passed=False)),
            "limit:read": launches_of(records, "limit:read", 2, fidelity=None),
        },
    )


def terminal(result: dict[str, Any], width: int) -> list[str]:
    """The lines as a terminal without colour shows them."""
    text = io.StringIO()
    Console(file=text, width=width, color_system=None, force_terminal=False).print(rich_table(result))
    return [line.rstrip() for line in text.getvalue().splitlines()]


def markdown_rows(result: dict[str, Any]) -> dict[str, dict[str, str]]:
    """case label → column heading → cell, in order."""
    rows = [
        [cell.strip() for cell in line[1:-1].split(" | ")] for line in markdown(result).splitlines() if line[:1] == "|"
    ]
    headings = [*(column.heading for column in COLUMNS if not column.optional), "note"]
    assert rows[0] == headings
    return {row[0]: dict(zip(headings, row, strict=True)) for row in rows[2:]}


def test_instruments_come_first_then_the_fastest_and_last_what_has_no_speed(records: Any) -> None:
    expected = [
        "limit:read",
        "torch:half",
        "torch:baseline",
        "tinygrad:default",
        "tinygrad:beam",
        "tensorrt:basic",
    ]
    assert list(markdown_rows(full(records))) == expected


def test_the_cells_of_a_good_case(records: Any) -> None:
    row = markdown_rows(full(records))["torch:half"]
    assert row == {
        "case": "torch:half",
        "weights": "float16",
        "load s": "0.200",
        "cold ms": "10.0",
        "TTFT ms": "10.0",
        "TPOT ms": "4.00",
        "prefill tok/s": "400",
        "decode tok/s": "250",
        "± %": "-",
        "max tok/s": "250",
        "memory GB": "0.000",
        "MBU %": "50.6",
        "fidelity": "KLD 1e-05 pass",
        "note": "",
    }


def test_float32_shows_the_largest_logit_error(records: Any) -> None:
    assert markdown_rows(full(records))["torch:baseline"]["fidelity"].endswith("3e-04 pass")


def test_a_failed_gate_shows_no_speed_but_memory_and_the_reason(records: Any) -> None:
    result = full(records)
    row = markdown_rows(result)["tinygrad:default"]
    for heading in ("load s", "cold ms", "TTFT ms", "TPOT ms", "prefill tok/s", "decode tok/s", "max tok/s", "MBU %"):
        assert row[heading] == "-", heading
    assert row["fidelity"] == "KLD 5e-01 FAIL"
    assert row["memory GB"] != "-"
    note = markdown(result).split(f"\n{row['note']}. ")[1].splitlines()[0]
    assert note == "no speed: failed fidelity: mean KL divergence 0.5 > 0.001 nat"
    assert "1000" not in "".join(cell for cell in row.values())  # its 1000 tok/s


def test_a_failed_case_has_its_reason_and_last_words(records: Any) -> None:
    result = full(records)
    row = markdown_rows(result)["tinygrad:beam"]
    assert row["fidelity"] == "failed"
    note = markdown(result).split(f"\n{row['note']}. ")[1].splitlines()[0]
    assert note == "failed: signal during load: killed by signal 9 \\| stderr: b / out of / memory"


def test_an_unavailable_case_has_its_reason(records: Any) -> None:
    result = full(records)
    row = markdown_rows(result)["tensorrt:basic"]
    assert (row["fidelity"], row["decode tok/s"], row["weights"]) == ("unavailable", "-", "-")
    assert f"{row['note']}. unavailable: needs an NVIDIA GPU" in markdown(result)


def test_a_rate_above_the_limit_is_marked_and_explained(records: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plausibility, "CACHED_BYTES", 1.0)  # these records read 900 bytes per token
    cases = {label: launches_of(records, label, ms) for label, ms in (("torch:half", 2), ("limit:read", 4))}
    cases["limit:read"][0] = records.check(records.case("limit", "read"), fidelity=None)
    result = table_of(records, cases)
    row = markdown_rows(result)["torch:half"]
    assert row["MBU %"] == "202!"
    assert row["decode tok/s"] == "500!"
    assert f"{row['note']}. invalid: above-limit: " in markdown(result)


def test_an_engine_without_a_limit_beside_it_says_so(records: Any) -> None:
    result = table_of(records, {"torch:half": launches_of(records, "torch:half", 2)})
    row = markdown_rows(result)["torch:half"]
    assert (row["MBU %"], row["note"]) == ("-", "1")
    assert "1. MBU: no limit was measured in this run" in markdown(result)


def test_excluded_requests_are_a_note(records: Any) -> None:
    case = records.case()
    requests = [records.request(0, (10, 12, 14)), records.request(1, (10, 12, 14), doubts=["swapped"])]
    result = table_of(records, {"torch:half": [records.check(case), records.timed(requests, case)]})
    assert "2. decode: 1 of 2 measured requests excluded (1 x swapped)" in markdown(result)


def test_equal_notes_share_a_number(records: Any) -> None:
    result = table_of(records, {"a:x": "needs an NVIDIA GPU", "b:x": "needs an NVIDIA GPU", "c:x": "program missing"})
    rows = markdown_rows(result)
    assert [rows[label]["note"] for label in ("a:x", "b:x", "c:x")] == ["1", "1", "2"]


def test_the_interval_is_shown_as_half_its_width(records: Any) -> None:
    case = records.case()
    timed = [records.timed([records.request(0, (10, 10 + ms, 10 + 2 * ms))], case) for ms in (3.9, 4, 4.1)]
    result = table_of(records, {"torch:half": [records.check(case), *timed]})
    metric = result["cases"][0]["metrics"]["decode_tps"]
    low, high = metric["interval"]
    assert markdown_rows(result)["torch:half"]["± %"] == f"{(high - low) / 2 / metric['value'] * 100:.1f}"


def test_the_header_says_what_was_measured_on_what(records: Any) -> None:
    result = table_of(records, {"torch:half": launches_of(records, "torch:half", 4)}, left_out=["3 of 5 requests"])
    header = markdown(result).split("\n| case")[0]
    for text in (
        "m, gguf, 1.23 GB: synthetic weights: text means nothing",
        "pp4+tg3: 4 prompt tokens, 3 generated, batch 1; cpu: Some CPU, 2 threads",
        "preset quick: 1 launch x 2 requests (after 1 warm-up); 2026-01-02, run r1",
        "left out: 3 of 5 requests",
    ):
        assert text in header


def test_real_weights_are_not_called_synthetic(records: Any) -> None:
    result = table_of(records, {"torch:half": launches_of(records, "torch:half", 4)})
    result["plan"]["models"][0]["weights"] = "real"
    assert "real weights" in markdown(result)
    assert "synthetic" not in markdown(result)


def test_a_preset_without_verdicts_says_so_and_one_with_them_does_not(records: Any) -> None:
    cases = {"torch:half": launches_of(records, "torch:half", 4)}
    assert "indicative" in markdown(table_of(records, cases))
    assert "indicative" not in markdown(table_of(records, cases, verdicts=True))


def test_a_noisy_machine_is_named_below_the_table(records: Any) -> None:
    result = full(records)
    result["environment"]["noise_before"] = {"pressure_cpu": 40.0}
    result["environment"]["noise_after"] = {"pressure_cpu": 40.0}
    assert "some task waited for a processor 40 % of 10 s" in markdown(result)


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_no_line_of_the_table_is_wider_than_the_terminal(records: Any, width: int) -> None:
    lines = terminal(full(records), width)
    assert max(len(line) for line in lines) <= width
    rows = [line for line in lines if line.startswith(("limit:", "torch:", "tinygrad:", "tensorrt:"))]
    assert len(rows) == 6  # none is wrapped
    assert all("…" not in row for row in rows)


def test_120_columns_hold_what_matters_and_100_the_essential(records: Any) -> None:
    wide, narrow = ("\n".join(terminal(full(records), width)) for width in (120, 100))
    for heading in ("weights", "load", "cold", "TTFT", "TPOT", "prefill", "decode", "memory", "MBU", "fidelity"):
        assert heading in wide.split("limit:read")[0], heading
    for heading in ("load", "TTFT", "TPOT", "decode", "memory", "MBU", "fidelity"):
        assert heading in narrow.split("limit:read")[0], heading


def test_what_a_narrow_terminal_drops_is_named(records: Any) -> None:
    assert any(line.startswith("not shown at this width: ") for line in terminal(full(records), 80))
    assert not any(line.startswith("not shown") for line in terminal(full(records), 200))


def test_an_engines_message_cannot_drive_the_terminal_or_the_markup(records: Any) -> None:
    result = table_of(records, {"a:x": "\x1b[31mred\x1b[0m [bold]x[/bold] | y <b>"})
    text = "\n".join(terminal(result, 120))
    assert "\x1b" not in text
    assert "[bold]x[/bold]" in text
    assert "\\| y &lt;b>" in markdown(result)


def test_json_is_the_result_itself(records: Any) -> None:
    result = full(records)
    assert json.loads(to_json(result)) == result


def test_csv_holds_every_metric_unrounded_and_names_the_invalid_ones(records: Any) -> None:
    result = full(records)
    rows = {
        row["engine"] + ":" + row["configuration"]: row
        for row in csv.DictReader(io.StringIO(to_csv(case_sheet(result))))
    }
    assert len(rows) == len(result["cases"])
    by_label = {f"{case['engine']}:{case['configuration']}": case for case in result["cases"]}
    for label, row in rows.items():
        for name, metric in by_label[label]["metrics"].items():
            assert row[name] == ("" if metric["value"] is None else str(metric["value"]))
    assert "decode_tps" in rows["tinygrad:default"]["invalid"].split()
    assert "decode_tps" not in rows["torch:half"]["invalid"].split()
    assert rows["tensorrt:basic"]["reason"] == "needs an NVIDIA GPU"


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.1234, "0.123"), (1.2345, "1.23"), (9.999, "10.00"), (12.345, "12.3"), (123.4, "123"), (12345.6, "12346")],
)
def test_numbers_are_rounded_to_three_digits_at_least(value: float, expected: str) -> None:
    assert rounded(value) == expected


def test_a_result_of_two_workloads_gives_two_tables(records: Any) -> None:
    result = table_of(records, {"torch:half": launches_of(records, "torch:half", 4)})
    other = {**result["plan"]["workloads"][0], "name": "pp8+tg3", "n_prompt": 8}
    result["plan"]["workloads"].append(other)
    result["cases"].append({**result["cases"][0], "workload": "pp8+tg3"})
    assert markdown(result).count("| case |") == 2


def test_the_renderable_is_what_the_command_line_prints(records: Any) -> None:
    assert isinstance(rich_table(full(records)), ResultTable)


def test_serving_overhead_and_a_shared_server_are_notes(records: Any) -> None:
    told = {"decode_ns": 5_000_000, "n_requests": 1}
    case = records.case("ollama", "default")
    check = records.check(case)
    check = msgspec.structs.replace(check, loaded=msgspec.structs.replace(check.loaded, shared_server=True))
    timed = records.timed([records.request(0, (10, 12, 16), reported=told)], case, loaded=check.loaded)
    text = "\n".join(terminal(table_of(records, {"ollama:default": [check, timed]}), 200))
    assert "serving overhead +20.0%" in text
    assert "a server that ran before" in text


def test_a_check_of_the_likeliest_ids_alone_is_named(records: Any) -> None:
    reading = records.fidelity(top_logprobs=20, overlap=0.99)
    result = table_of(records, {"ollama:default": launches_of(records, "ollama:default", 2, fidelity=reading)})
    assert "(top 20) ≥" in markdown_rows(result)["ollama:default"]["fidelity"]
