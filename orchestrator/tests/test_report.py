"""The HTML report: what is in it, what is not invented, that nothing gets out of its place, its size and its time."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from enginebench.cli import command_line
from enginebench.errors import UsageError
from enginebench.judge.stored_run import StoredRun
from enginebench.report.html.page import html, report
from enginebench.report.plots import bars, courses, ratios, roofline, stacks
from enginebench.report.plots.drawing import Lack, Plot, file, inline
from enginebench.report.terminal_bars import bar_lines, drawn
from enginebench.store.manifest import seal
from enginebench.store.result import dumped, read_result, write_whole
from typer.testing import CliRunner

from .large_run import REFERENCE, large_result

LARGEST_BYTES = 6_000_000
LONGEST_CPU_SECONDS = 10.0
"""Two of the clock on an idle machine; tests share theirs, which makes seconds of the processor longer too."""


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    return read_result(REFERENCE)


@pytest.fixture(scope="module")
def large() -> dict[str, Any]:
    return large_result()


class Seen(HTMLParser):
    """Every tag with its attributes, and the text; what a browser would make of the page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._raw = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._raw = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._raw = False

    def handle_data(self, data: str) -> None:
        if not self._raw:
            self.texts.append(data)

    def values(self, name: str) -> list[str]:
        return [attributes[name] or "" for _, attributes in self.tags if name in attributes]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def page_of(*results: dict[str, Any]) -> str:
    return html(report([StoredRun(result) for result in results]))


@pytest.fixture(scope="module")
def page(large: dict[str, Any], reference: dict[str, Any]) -> str:
    """Of two runs, the second of which lacks most."""
    return page_of(large, reference)


def test_a_page_loads_nothing_and_forbids_it(page: str) -> None:
    seen = Seen(page)
    assert {tag for tag, _ in seen.tags}.isdisjoint({"script", "link", "img", "iframe", "object", "embed", "base"})
    policy = next(attributes["content"] for tag, attributes in seen.tags if "http-equiv" in attributes)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    assert all(link.startswith("#") for link in seen.values("href"))
    assert not seen.values("src")
    assert not re.search(r"url\((?!#)|@import|https?:", page)


def test_every_section_of_a_large_run_is_drawn(large: dict[str, Any]) -> None:
    found = report([StoredRun(large)])
    names = {name.removeprefix("run1-work1-") for name, _ in found.plots()}
    states = {f"{what}-{state}" for what in ("cold-start", "break-even") for state in ("disk-cold", "cache-warm")}
    assert names == {"decode", "ttft", "token-times", "request-times", "memory", "roofline", "comparisons"} | states


def test_ids_are_unique_and_every_link_has_its_target(page: str) -> None:
    seen = Seen(page)
    ids = seen.values("id")
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in seen.values("href")} <= set(ids)
    for names in (*seen.values("aria-labelledby"), *seen.values("aria-describedby")):
        assert set(names.split()) <= set(ids)


def test_what_a_run_has_no_data_for_has_its_reason_and_no_plot(reference: dict[str, Any]) -> None:
    """The published run is older than anatomies, and has one launch."""
    seen = Seen(page_of(reference))
    assert "Cold start" in seen.text
    assert "model on the disk alone: nothing to show. no launch started from the disk" in seen.text
    assert "preset quick gathers too few launches for verdicts" in seen.text
    assert "needs an NVIDIA GPU" in seen.text
    decode = bars.decode(reference["cases"])
    assert isinstance(decode, Plot)
    shown = {row[0] for row in decode.data.rows}
    assert not any(label.startswith("vllm") for label in shown), "a case that did not run has no bar of length 0"
    assert all(row[2] is None and row[3] is None for row in decode.data.rows), "one launch gives no interval"


def test_a_run_in_which_nothing_ran_has_reasons_only(reference: dict[str, Any]) -> None:
    cases = [case for case in reference["cases"] if case["status"] == "unavailable"]
    plots = [
        bars.decode(cases),
        bars.time_to_first_token(cases),
        courses.token_times(cases),
        courses.request_times(cases),
        courses.break_even(reference, cases, "cache-warm"),
        stacks.memory(cases),
        stacks.cold_start(cases, "cache-warm"),
        roofline.plot(cases, reference["plan"]),
        ratios.of_cases({**reference, "comparisons": []}, "llama3-1b", "pp128+tg64"),
    ]
    assert all(isinstance(plot, Lack) and plot.reason for plot in plots)
    page_of({**reference, "cases": cases, "comparisons": []})


def test_a_case_with_a_failed_gate_shows_no_speed_in_any_plot(large: dict[str, Any]) -> None:
    """It keeps its values in the result, and its memory in the report."""
    failed = json.loads(json.dumps(large["cases"][3]))
    failed |= {"status": "invalid", "reason": "fidelity gate failed"}
    for name in ("decode_tps", "ttft_ns", "tpot_ns"):
        failed["metrics"][name] |= {"valid": False, "reasons": ["fidelity gate failed"]}
    cases = [*large["cases"][:3], failed]
    plots = [
        bars.decode(cases),
        bars.time_to_first_token(cases),
        courses.token_times(cases),
        courses.request_times(cases),
        courses.break_even({**large, "break_even": []}, cases, "cache-warm"),
        stacks.cold_start(cases, "cache-warm"),
        roofline.plot(cases, large["plan"]),
    ]
    for plot in plots:
        assert isinstance(plot, Plot)
        told = json.dumps([plot.title, plot.summary, plot.data.columns, plot.data.rows])
        assert "llamacpp:default" not in told
        assert "hybrid:default" in told
    assert isinstance(memory := stacks.memory(cases), Plot)
    assert "llamacpp:default" in [row[0] for row in memory.data.rows]


def test_bars_are_the_metrics_of_the_result(large: dict[str, Any]) -> None:
    plot = bars.decode(large["cases"])
    assert isinstance(plot, Plot)
    for label, value, low, high in plot.data.rows:
        engine, _, configuration = label.partition(":")
        case = next(c for c in large["cases"] if (c["engine"], c["configuration"]) == (engine, configuration))
        metric = case["metrics"]["decode_tps"]
        assert (value, [low, high]) == (metric["value"], metric["interval"])


def test_memory_parts_add_up_to_the_peak(large: dict[str, Any]) -> None:
    plot = stacks.memory(large["cases"])
    assert isinstance(plot, Plot)
    for _, *parts, total in plot.data.rows:
        assert sum(part or 0 for part in parts) == pytest.approx(total, rel=1e-6)


def test_two_runs_are_compared_with_verdicts_and_other_machines_are_refused() -> None:
    base = large_result(n_cases=2)
    slower = json.loads(json.dumps(base))
    for case in slower["cases"]:
        for launch in case["launches"]:
            for request in launch["requests"]:
                request["t_token_ns"] = [int(t * 1.1) for t in request["t_token_ns"]]
    text = Seen(page_of(base, slower)).text
    assert "REGRESSION" in text
    assert "SLOWER" in text
    other = {**base, "environment": {**base["environment"], "cpu": {**base["environment"]["cpu"], "model": "other"}}}
    assert "these runs cannot be compared: other machine" in Seen(page_of(base, other)).text


def test_quantising_is_shown_where_it_was_and_only_there(reference: dict[str, Any]) -> None:
    name = "torch:{}/llama3-1b/pp128+tg64"
    impact = {
        "new": name.format("q8"), "base": name.format("half"), "weights_bytes": 1_300_000_000, "reasons": [],
        "base_weights_bytes": 2_500_000_000, "read_bytes_per_token": 1_300_000_000, "decode_ratio": 1.6,
        "base_read_bytes_per_token": 2_500_000_000, "decode_interval_95": [1.5, 1.7], "mean_kld": 0.0021,
    }  # fmt: skip
    alone = {**impact, "base": None, "decode_ratio": None, "reasons": ["its unquantised case was not run"]}
    text = Seen(page_of({**reference, "quantisation": [impact]})).text
    assert "torch:q8: 1.60x [1.50, 1.70] the speed, KLD 2.1e-03" in text
    assert "no quantised case of this run stands" not in text
    text = Seen(page_of({**reference, "quantisation": [alone]})).text
    assert "no quantised case has an unquantised one beside it" in text
    assert "torch:q8: its unquantised case was not run" in text
    assert "no quantised case of this run stands" in Seen(page_of(reference)).text


HOSTILE = (
    "</style></title><script>alert(1)</script><img src=x onerror=alert(2)>]]>&#x3c;\"'<svg onload=alert(3)>$\\frac{"
)


def hostile(result: dict[str, Any]) -> dict[str, Any]:
    """Every text of a run that an engine, a file or a person can choose."""
    bad = json.loads(json.dumps(result))
    old = {bad["plan"]["models"][0]["name"]: HOSTILE, "ollama": f"ollama{HOSTILE}", "default": f"default{HOSTILE}"}
    text = json.dumps(bad)
    for name, new in old.items():
        text = text.replace(f'"{name}"', json.dumps(new))
        text = re.sub(rf'(?<=[":/]){re.escape(name)}(?=[/"])', json.dumps(new)[1:-1].replace("\\", "\\\\"), text)
    bad = json.loads(text)
    bad["run_id"] = HOSTILE
    bad["environment"]["kernel"] = bad["environment"]["cpu"]["model"] = HOSTILE
    bad["plan"]["left_out"] = [HOSTILE]
    for case in bad["cases"]:
        case["brackets"] = [HOSTILE]
        case["suspicions"] = [{"code": "x", "text": HOSTILE}]
        case["loaded"] = case["loaded"] and {**case["loaded"], "versions": {HOSTILE: HOSTILE}}
        case["reason"] = f"{HOSTILE}\x1b[31m"
    return bad


def test_what_a_run_says_stays_text(page: str, reference: dict[str, Any]) -> None:
    bad = hostile(reference)
    honest, page = Seen(page), page_of(bad, bad)
    seen = Seen(page)
    assert {tag for tag, _ in seen.tags} <= {tag for tag, _ in honest.tags}
    assert not [name for _, attributes in seen.tags for name in attributes if name.startswith("on") or name == "src"]
    assert "<script>alert(1)</script>" in seen.text, "it is shown, as text"
    assert "\x1b" not in page
    assert page.count("<style>") == 1


def test_a_plot_with_hostile_names_is_one_svg(reference: dict[str, Any]) -> None:
    """Nothing is read as a formula or as markup, in the page and in files."""
    plot = bars.decode(hostile(reference)["cases"])
    assert isinstance(plot, Plot)
    tags = {tag for tag, _ in Seen(inline(plot, "p")).tags}
    assert tags <= {"svg", "defs", "g", "path", "text", "clippath", "rect", "use"}
    assert b"&lt;script&gt;" in file(plot, "svg")
    assert file(plot, "png").startswith(b"\x89PNG")


def test_text_in_plots_is_text_and_colours_follow_the_theme(reference: dict[str, Any]) -> None:
    plot = bars.decode(reference["cases"])
    assert isinstance(plot, Plot)
    drawn = inline(plot, "p")
    assert "torch:half" in drawn
    assert "var(--c0)" in drawn
    assert not re.findall(r"#[0-9a-f]{6}\b", drawn), "a colour that does not follow the theme"


def test_a_plot_is_the_same_each_time_it_is_drawn(reference: dict[str, Any]) -> None:
    plots = [bars.decode(reference["cases"]) for _ in range(2)]
    assert len({inline(plot, "p") for plot in plots if isinstance(plot, Plot)}) == 1


def test_the_command_on_a_run_of_twelve_cases_and_ten_launches(large: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "runs" / large["run_id"]
    folder.mkdir(parents=True)
    (folder / "journal").write_bytes(b"")
    write_whole(folder / "result.json", dumped(large))
    seal(folder, large["run_id"], ["run"], None)
    page = tmp_path / "report.html"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "enginebench", "report", str(folder), "-o", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.strip() == str(page)
    assert page.stat().st_size < LARGEST_BYTES
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < LONGEST_CPU_SECONDS


def test_bars_of_a_terminal_are_on_one_scale_with_their_intervals() -> None:
    drawn_bars = [bars.Bar("a:b", 10.0, (8.0, 12.0)), bars.Bar("longer", 6.0, None), bars.Bar("c", 0.1, None)]
    assert list(drawn(drawn_bars, 37)) == [
        "a:b    ████████▒▒── 10.0 [8.00, 12.0]",
        "longer ██████       6.00",
        "c                   0.100",
    ]


def test_bars_of_a_terminal_fit_into_it(large: dict[str, Any]) -> None:
    lines = list(bar_lines(large, 80))
    assert max(map(len, lines)) <= 80
    assert [lines.count("Decode rate, tok/s"), lines.count("Time to first token, ms")] == [1, 1]


def test_bars_of_a_terminal_say_why_there_are_none(reference: dict[str, Any]) -> None:
    cases = [case for case in reference["cases"] if case["status"] == "unavailable"]
    lines = list(bar_lines({**reference, "cases": cases}, 80))
    assert any(line.startswith("nothing to show: needs") for line in lines)


def test_plots_are_files_of_their_own_and_the_page_says_where_it_is(tmp_path: Path) -> None:
    page, folder = tmp_path / "new" / "a.html", tmp_path / "plots"
    asked = ["report", str(REFERENCE), "-o", str(page), "--plots", str(folder), "--format", "png"]
    done = CliRunner().invoke(command_line(), asked)
    assert done.exit_code == 0, done.output
    files = sorted(folder.iterdir())
    assert [Path(line) for line in done.stdout.split()] == [
        page,
        *sorted(files, key=lambda file: done.stdout.index(str(file))),
    ]
    assert {file.suffix for file in files} == {".png"}
    assert "run1-work1-decode" in {file.stem for file in files}


def test_a_page_that_cannot_be_written_is_said_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = CliRunner().invoke(command_line(), ["report", str(REFERENCE), "-o", str(tmp_path / "file" / "x")])
    assert isinstance(done.exception, UsageError)
    assert "-o names another file" in str(done.exception)
