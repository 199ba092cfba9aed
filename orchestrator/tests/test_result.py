"""The result: verdicts on cases, the schema, and a file that is whole or not there."""

from __future__ import annotations

import copy
import json
import math
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest
from enginebench.errors import BenchError, StorageError, UsageError
from enginebench.judge.assemble import CaseFacts, assemble
from enginebench.judge.energy_metrics import energy_metrics
from enginebench.judge.metrics import case_metrics
from enginebench.store.anonymous import anonymous
from enginebench.store.record import EnergyReading, EnergyWindow
from enginebench.store.result import dumped, read_result, schema_fault, write_result
from enginebench.store.surroundings import GpuState, LaunchNoise, NoiseSnapshot, ProcessCounters
from enginebench.workspace.discovery import ROOT
from enginebench_protocol.reproduce import plan_of, recorded_cases


def assembled(records: Any, launches: list[Any], **facts: Any) -> dict[str, Any]:
    """The result of one case."""
    case = facts.pop("case", records.case())
    cases = [CaseFacts(case, facts.pop("role", "engine"), **facts)]
    return assemble("r1", records.environment(), records.plan(), cases, launches)


def good(records: Any) -> list[Any]:
    return [records.check(), records.timed([records.request(i, (5, 7, 9)) for i in range(2)])]


def verdict(records: Any, launches: list[Any], **facts: Any) -> tuple[str, str | None]:
    case = assembled(records, launches, **facts)["cases"][0]
    return case["status"], case["reason"]


# ---- verdicts -------------------------------------------------------------------------------------------------


def test_a_case_that_did_everything_is_ok(records: Any) -> None:
    assert verdict(records, good(records)) == ("ok", None)


def test_a_case_that_cannot_run_here_is_unavailable_with_its_reason(records: Any) -> None:
    assert verdict(records, [], unavailable="needs an NVIDIA GPU") == ("unavailable", "needs an NVIDIA GPU")


def test_a_failed_check_is_a_failed_case(records: Any) -> None:
    launches = [records.check(failure=records.failure(hint="use fewer threads"), fidelity=None)]
    assert verdict(records, launches) == ("failed", "hang during load: no answer for 5 s (use fewer threads)")


def test_a_check_that_the_engine_calls_unsupported_is_an_unavailable_case(records: Any) -> None:
    failure = records.failure(reason="unsupported", message="no such device", hint="use the CPU")
    check = records.check(failure=failure, fidelity=None)
    assert verdict(records, [check]) == ("unavailable", "no such device (use the CPU)")


def test_a_case_that_was_never_launched_is_failed_and_says_so(records: Any) -> None:
    assert verdict(records, []) == ("failed", "not launched: the run ended before its turn")


def test_a_case_that_was_admitted_but_not_timed_is_failed(records: Any) -> None:
    assert verdict(records, [records.check()]) == ("failed", "not timed: the run ended before its turn")


def test_other_weights_make_a_case_invalid(records: Any) -> None:
    launches = [records.check(loaded=records.loaded(weights_fingerprint="f" * 64)), good(records)[1]]
    status, reason = verdict(records, launches)
    assert status == "invalid"
    assert reason is not None
    assert reason.startswith("other weights")


def test_a_failed_gate_makes_a_case_invalid_with_the_gates_reasons(records: Any) -> None:
    launches = [records.check(fidelity=records.fidelity(passed=False)), good(records)[1]]
    expected = "fidelity gate failed: mean KL divergence 0.5 > 0.001 nat"
    assert verdict(records, launches) == ("invalid", expected)


def test_an_engine_without_a_reading_is_invalid(records: Any) -> None:
    launches = [records.check(fidelity=None), good(records)[1]]
    assert verdict(records, launches) == ("invalid", "no fidelity reading")


@pytest.mark.parametrize("role", ["instrument", "test"])
def test_what_is_no_engine_needs_no_reading(records: Any, role: str) -> None:
    launches = [records.check(fidelity=None), good(records)[1]]
    assert verdict(records, launches, role=role) == ("ok", None)


def test_a_test_engine_may_have_other_weights(records: Any) -> None:
    launches = [records.timed([records.request(0, (1, 2, 3))], loaded=records.loaded(weights_fingerprint="f" * 64))]
    assert verdict(records, launches, role="test") == ("ok", None)


def test_one_failed_launch_of_two_is_a_caution(records: Any) -> None:
    launches = [*good(records), records.timed([], failure=records.failure())]
    expected = "1 of 2 timed launches failed: hang during load: no answer for 5 s"
    assert verdict(records, launches) == ("ok", expected)


def test_every_timed_launch_failed_is_a_failed_case(records: Any) -> None:
    launches = [records.check(), records.timed([], failure=records.failure())]
    assert verdict(records, launches)[0] == "failed"


def test_doubtful_requests_only_make_a_case_invalid(records: Any) -> None:
    launches = [records.check(), records.timed([records.request(0, (1, 2, 3), doubts=["swapped"])])]
    assert verdict(records, launches) == ("invalid", "no measured request is free of doubt")


def test_launches_in_doubt_only_make_a_case_invalid(records: Any) -> None:
    swapped = records.timed([records.request(0, (1, 2, 3))], doubts=["swap: the machine swapped 7 pages"])
    expected = "no launch without noise: 1 of 1 timed launches excluded for noise (1 x swap)"
    assert verdict(records, [records.check(), swapped]) == ("invalid", expected)


@pytest.mark.parametrize(("good", "mark"), [(19, None), (18, "5% of the measured requests are invalid: measure again")])
def test_a_case_with_more_than_a_twentieth_excluded_is_marked(records: Any, good: int, mark: str | None) -> None:
    launches = [records.timed([records.request(0, (1, 2, 3))]) for _ in range(good)]
    doubtful = records.timed([records.request(0, (1, 2, 3))], doubts=["major-faults: 1"])
    assert verdict(records, [records.check(), *launches, doubtful]) == ("ok", mark)


def test_a_launch_with_everything_that_was_read_around_it_fits_the_schema(records: Any) -> None:
    gpu = GpuState(name="NVIDIA H200", sm_clock_mhz=1980, persistence=True)
    moment = NoiseSnapshot(date="2026-01-02", t_ns=1, load_1min=0.5, runnable=0, mean_mhz=2000.5, gpu=gpu)
    counters = ProcessCounters(cpu_ns=1, major_faults=0, involuntary_switches=2)
    around = {"before": moment, "start": moment, "end": moment, "engine_start": counters, "engine_end": counters}
    noise = LaunchNoise(**around, harness_cpu_ns=3, gpu_after_requests=[gpu], gpu_wait_ns=4, gpu_settled=True)
    launch = records.timed([records.request(0, (1, 2, 3))], noise=noise)
    window = EnergyWindow(seconds=10.0, joules={"package-0": 1.5}, n_requests=3)
    energy = EnergyReading(counters=["package-0"], n_sent=4, n_gen=3, idle=window, prefill=window, full=None)
    measured = records.timed([], kind="energy", energy=energy)
    assert schema_fault(assembled(records, [records.check(), launch, measured])) is None


# ---- contents -------------------------------------------------------------------------------------------------


def test_metrics_are_those_of_the_launches_against_the_limit_of_the_same_run(records: Any) -> None:
    limit = records.case("limit", "read")
    slow_limit = records.case("limit", "slow")
    cases = [CaseFacts(records.case(), "engine"), CaseFacts(limit, "instrument"), CaseFacts(slow_limit, "instrument")]
    requests = {ms: [records.request(0, (5, 5 + ms, 5 + 2 * ms))] for ms in (1, 2, 4)}
    launches = [
        records.check(),
        records.timed(requests[2]),
        records.timed(requests[1], limit),
        records.timed(requests[4], slow_limit),
    ]
    metrics = assemble("r1", records.environment(), records.plan(), cases, launches)["cases"][0]["metrics"]
    assert metrics["decode_tps"]["value"] == 500.0
    assert metrics["mbu"]["value"] == pytest.approx((900 + 2 * 5.5) * 500 / (900 * 1000))


def test_raw_launches_give_the_stored_metrics_again(records: Any) -> None:
    case = assembled(records, good(records))["cases"][0]
    launches = [msgspec.convert(raw, type(records.check())) for raw in case["launches"]]
    assert launches == good(records)
    again = {**case_metrics(launches), **energy_metrics(launches, {})}
    assert msgspec.to_builtins(again) == case["metrics"]


def test_a_case_carries_what_was_loaded_and_every_version(records: Any) -> None:
    case = assembled(records, good(records), versions={"numpy": "2.4.6", "torch": "0"}, pins_sha256="d" * 64)
    case = case["cases"][0]
    assert case["loaded"]["weight_dtype"] == "float16"
    assert case["versions"] == {"numpy": "2.4.6", "torch": "2.15.0"}
    assert case["pins_sha256"] == "d" * 64
    assert case["fidelity"]["n_positions"] == 65


def test_logits_of_nan_become_null_and_still_fit_the_schema(records: Any) -> None:
    reading = msgspec.structs.replace(records.fidelity(passed=False), mean_kld=math.nan, max_kld=math.inf)
    result = assembled(records, [records.check(fidelity=reading)])
    assert result["cases"][0]["fidelity"]["mean_kld"] is None
    assert schema_fault(result) is None


def test_the_stand_alone_reproduce_command_finds_all_it_needs(records: Any, tmp_path: Path) -> None:
    result = assembled(records, good(records))
    case = recorded_cases(result, "torch", "half")[0]
    plan = plan_of(result, case, lambda source, weights: tmp_path / source / weights)
    assert (plan.n_ctx, plan.n_prompt, plan.n_gen, plan.iterations) == (128, 4, 3, 2)
    assert plan.model_path == tmp_path / "m" / "synthetic"


def test_the_last_words_of_an_engine_lose_the_folders_and_the_host(records: Any) -> None:
    home, host = str(Path.home()), socket.gethostname()
    failure = records.failure(
        message=f"cannot open {ROOT}/x", detail=f"{home}/y", stderr_tail=[f"{host}: no such file {home}/z"]
    )
    text = json.dumps(assembled(records, [records.check(failure=failure, fidelity=None)]))
    for secret in (str(ROOT), home, f"{host}:"):
        assert secret not in text
    assert "<checkout>/x" in text
    assert "~/y" in text
    assert "<host>: no such file ~/z" in text


def test_texts_without_folders_stay_as_they_are() -> None:
    assert anonymous("hang during load: no answer") == "hang during load: no answer"


# ---- schema ---------------------------------------------------------------------------------------------------


def test_a_result_fits_the_schema(records: Any) -> None:
    assert schema_fault(assembled(records, good(records))) is None


def _without_reason(result: dict[str, Any]) -> None:
    result["cases"][0].update(status="failed", reason=None)


def _zero_for_missing(result: dict[str, Any]) -> None:
    result["cases"][0]["metrics"]["mbu"].update(valid=True)


def _unexplained(result: dict[str, Any]) -> None:
    result["cases"][0]["metrics"]["mbu"].update(reasons=[])


def _unknown_status(result: dict[str, Any]) -> None:
    result["cases"][0]["status"] = "fine"


def _extra_field(result: dict[str, Any]) -> None:
    result["cases"][0]["hostname"] = "h"


def _text_for_time(result: dict[str, Any]) -> None:
    result["cases"][0]["launches"][1]["requests"][0]["t_token_ns"][0] = "1"


def _no_fingerprint(result: dict[str, Any]) -> None:
    del result["plan"]["models"][0]["fingerprint"]


@pytest.mark.parametrize(
    "breakage",
    [
        _without_reason,
        _zero_for_missing,
        _unexplained,
        _unknown_status,
        _extra_field,
        _text_for_time,
        _no_fingerprint,
    ],
)
def test_the_schema_refuses(records: Any, breakage: Any) -> None:
    result = assembled(records, good(records))
    broken = copy.deepcopy(result)
    breakage(broken)
    assert schema_fault(result) is None
    assert schema_fault(broken) is not None


def test_every_metric_and_every_unit_is_documented(records: Any) -> None:
    text = (ROOT / "results" / "SCHEMA.md").read_text()
    for name, metric in {**case_metrics(good(records)), **energy_metrics([], {})}.items():
        assert f"| `{name}` | {metric.unit} |" in text, name


def test_every_field_of_the_schema_is_documented() -> None:
    text = (ROOT / "results" / "SCHEMA.md").read_text()
    schema = json.loads((ROOT / "results" / "result.schema.json").read_text())
    for kind, definition in schema["$defs"].items():
        for name in definition.get("properties", {}):
            assert f"`{name}`" in text, f"{kind}.{name}"


# ---- the file -------------------------------------------------------------------------------------------------


def test_what_was_written_is_read_back(records: Any, tmp_path: Path) -> None:
    result = assembled(records, good(records))
    write_result(tmp_path / "result.json", result)
    assert read_result(tmp_path / "result.json") == result
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_lists_of_numbers_stand_on_one_line_and_texts_are_left_alone(records: Any) -> None:
    result = assembled(records, good(records))
    result["plan"]["left_out"] = ["[\\n  1,\\n  2\\n ]", "[\n 1\n]"]
    text = dumped(result)
    assert '"t_token_ns": [5000000, 7000000, 9000000]' in text
    assert json.loads(text) == result


def test_a_result_that_breaks_the_schema_is_not_written(records: Any, tmp_path: Path) -> None:
    result = assembled(records, good(records))
    _unknown_status(result)
    with pytest.raises(BenchError, match=r"cases\[0\]\.status"):
        write_result(tmp_path / "result.json", result)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_write_leaves_the_old_file_and_nothing_else(
    records: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = assembled(records, good(records))
    write_result(tmp_path / "result.json", result)

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(StorageError, match=r"cannot write result.json in .*: No space left"):
        write_result(tmp_path / "result.json", {**result, "run_id": "r2"})
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    assert read_result(tmp_path / "result.json")["run_id"] == "r1"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot read"),
        ("[1, 2]", "holds no result"),
        ("{}", "was not written by enginebench"),
        ('{"schema_version": 2}', "schema version 2, this enginebench reads up to 1: update enginebench"),
        ('{"schema_version": 1}', "is damaged at"),
        ('{"schema_version": NaN}', "cannot read"),
        ('{"schema_version": true}', "was not written by enginebench"),
    ],
)
def test_what_is_no_readable_result_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=message):
        read_result(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        read_result(tmp_path / "no.json")
