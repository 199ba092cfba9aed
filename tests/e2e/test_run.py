"""`enginebench run` from start to end, with the engine of known speed and the one that reads weights."""

from __future__ import annotations

import json
import mmap
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from .conftest import Cli
from .processes import words_of

Run = Callable[..., tuple[int, dict[str, Any], str]]


def case(result: dict[str, Any], label: str) -> dict[str, Any]:
    return next(c for c in result["cases"] if f"{c['engine']}:{c['configuration']}" == label)


def test_a_run_reports_the_known_speed_of_the_scripted_engine_within_one_percent(run: Run) -> None:
    code, result, _ = run("fake", "--n-gen", "200", "--iterations", "5")
    metrics = case(result, "fake:default")["metrics"]
    assert code == 0
    assert metrics["tpot_ns"]["value"] == pytest.approx(1e6, rel=0.01)
    assert metrics["decode_tps"]["value"] == pytest.approx(1000, rel=0.01)
    assert len(case(result, "fake:default")["launches"][-1]["requests"]) == 6  # one of them warm-up


def test_every_field_of_the_original_record_has_its_counterpart(run: Run) -> None:
    _, result, _ = run("fake")
    wanted_parts = {"schema_version", "run_id", "environment", "plan", "cases"}
    wanted_parts |= {"comparisons", "break_even", "quantisation"}
    assert set(result) == wanted_parts
    metrics = case(result, "limit:default")["metrics"]
    wanted = ["iterations", "total_time_ns", "ttft_ns", "tpot_ns", "min_itl_ns", "max_itl_ns"]
    wanted += ["decode_tps", "peak_decode_tps", "peak_memory_bytes", "model_memory_bytes", "load_ns", "cold_start_ns"]
    assert all(metrics[name]["value"] > 0 for name in wanted)


def test_the_limit_is_measured_beside_whatever_was_asked_for_and_its_memory_is_seen(run: Run) -> None:
    _, result, _ = run("fake:memory")
    assert case(result, "limit:default")["status"] == "ok"
    held = 256 * 2**20
    peak = case(result, "fake:memory")["metrics"]["peak_memory_bytes"]["value"]
    assert held < peak < held + 100 * 2**20


@pytest.mark.parametrize(
    ("configuration", "reason"),
    [
        ("exit", "exit during load: exited with code 3"),
        ("crash", "signal during request 1: killed by signal 11"),
        ("out-of-memory", "out-of-memory (host) during load"),
        ("bug", "engine-failure during request 1"),
        ("short", "engine-failure during request 1"),
    ],
)
def test_an_engine_that_goes_wrong_is_a_row_and_the_others_finish(run: Run, configuration: str, reason: str) -> None:
    code, result, _ = run(f"fake:{configuration}")
    broken = case(result, f"fake:{configuration}")
    assert code == 1
    assert broken["status"] == "failed"
    assert broken["reason"].startswith(reason)
    assert broken["metrics"]["decode_tps"]["value"] is None
    assert case(result, "limit:default")["status"] == "ok"


def test_an_engine_that_says_that_it_cannot_do_this_here_is_unavailable(run: Run) -> None:
    code, result, _ = run("fake:refuse")
    refused = case(result, "fake:refuse")
    assert (code, refused["status"]) == (0, "unavailable")
    assert refused["reason"] == "engine-fake was asked to refuse (choose another configuration)"
    assert case(result, "limit:default")["status"] == "ok"


def test_the_last_words_of_a_dying_engine_are_kept(run: Run) -> None:
    _, result, _ = run("fake:exit")
    failure = case(result, "fake:exit")["launches"][0]["failure"]
    assert "engine-fake: about to exit with code 3" in failure["stderr_tail"]


def test_prints_to_stdout_do_not_hurt(run: Run) -> None:
    code, result, _ = run("fake:noisy-stdout")
    assert (code, case(result, "fake:noisy-stdout")["status"]) == (0, "ok")


@pytest.mark.parametrize("configuration", ["hang", "stubborn", "native-hang"])
def test_a_hang_ends_with_its_deadline(run: Run, home: dict[str, str], configuration: str) -> None:
    _, result, _ = run(f"fake:{configuration}", "--silence", "2")
    assert case(result, f"fake:{configuration}")["reason"].startswith("hang during request 1")
    assert not strays(home)


def test_a_process_that_an_engine_leaves_behind_is_swept(run: Run, home: dict[str, str]) -> None:
    run("fake:orphan")
    assert not strays(home)


def test_a_process_with_our_cache_would_be_found(home: dict[str, str]) -> None:
    """The negative control."""
    with subprocess.Popen(["sleep", "60"], env={"XDG_CACHE_HOME": home["XDG_CACHE_HOME"]}) as stray:
        assert strays(home) == [stray.pid]
        stray.kill()


def strays(home: dict[str, str]) -> list[int]:
    """What still runs with the cache of these tests, which every engine and all below it inherit."""
    return [p.pid for p in psutil.process_iter() if cache_of(p) == home["XDG_CACHE_HOME"]]


def cache_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get("XDG_CACHE_HOME")
    except psutil.Error:
        return None


def engines_below(root: int) -> list[psutil.Process]:
    return [p for p in psutil.Process(root).children(recursive=True) if "engine_fake" in words_of(p)]


def test_nothing_survives_the_death_of_the_orchestrator(home: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "enginebench", "run", "fake:native-hang", "--model", "tiny", "--preset", "smoke"]
    orchestrator = subprocess.Popen(
        [*command, "--results", str(tmp_path)], env=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not engines_below(orchestrator.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    below = psutil.Process(orchestrator.pid).children(recursive=True)
    assert engines_below(orchestrator.pid)
    orchestrator.send_signal(signal.SIGKILL)
    orchestrator.wait()
    _, alive = psutil.wait_procs(below, timeout=5.0)
    assert not alive


def test_workloads_depths_and_threads_are_multiplied_and_each_is_a_case(run: Run, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.toml"
    sweep.write_text('engines = ["fake"]\nworkloads = ["pp8+tg4", "pp4+tg2@d20"]\nthreads = "1-2"')
    _, result, _ = run("--sweep", str(sweep))
    rows = {(c["workload"], c["threads"]): c for c in result["cases"] if c["engine"] == "fake"}
    assert set(rows) == {("pp8+tg4", 1), ("pp8+tg4", 2), ("pp4+tg2@d20", 1), ("pp4+tg2@d20", 2)}
    deep = rows["pp4+tg2@d20", 2]["launches"][-1]
    assert deep["loaded"]["threads"] == 2
    assert [(r["phase"], r["n_prompt"], len(r["t_token_ns"])) for r in deep["requests"]] == [
        ("warm-up", 24, 2),
        *[("measured", 24, 2)] * 2,
        *[("depth", 20, 1)] * 4,
    ]


def both_started(result: dict[str, Any]) -> bool:
    fakes = [c for c in result["cases"] if c["engine"] == "fake"]
    sound = all(found["valid"] for c in fakes for found in c["anatomy"].values())
    return sound and all(c["status"] == "ok" and "cache-warm" in c["time_to_tokens_ns"] for c in fakes)


def test_a_cold_start_is_taken_apart_and_its_break_even_found(run: Run, cli: Cli, tmp_path: Path) -> None:
    """600 ms more to load, and half a millisecond less for each token: in front after 1200 tokens.

    A busy machine makes the clocks of such short starts disagree; then nothing is said, and it is tried again.
    """
    arguments = ("fake", "fake:slow-start", "--cold", "1", "-n", "32", "--iterations", "5")
    result = next((found for _ in range(4) if both_started(found := run(*arguments)[1])), {})
    slow = case(result, "fake:slow-start")
    for state in ("cache-warm", "disk-cold"):
        found = slow["anatomy"][state]
        assert found["valid"], found["reasons"]
        told = {name: ns and ns / 1e6 for name, ns in found["parts_ns"].items()}
        assert told["read"] == pytest.approx(200, abs=20)
        assert told["convert"] == pytest.approx(50, abs=20)
        assert told["compile"] == pytest.approx(150, abs=20)
        assert told["rest_of_load"] == pytest.approx(100, abs=30)
        assert told["import"] > 100
        assert sum(told.values()) == pytest.approx(found["total_ns"] / 1e6)
    (cold,) = [launch for launch in slow["launches"] if launch["kind"] == "cold"]
    assert cold["start_state"]["asked"] == "disk-cold"
    assert {r["phase"] for r in cold["requests"]} == {"warm-up"}
    assert slow["metrics"]["launches"]["value"] == 1  # the timed one
    crossing = next(b for b in result["break_even"] if b["state"] == "cache-warm")
    assert (crossing["ahead"], crossing["behind"]) == ("fake:slow-start", "fake:default")
    assert crossing["tokens"] == pytest.approx(1200, rel=0.25)  # spawning takes its own time in each launch
    shown = cli("show", str(tmp_path / "runs" / result["run_id"]), "--cold-start").stdout
    assert "fake:slow-start overtakes fake:default after" in shown
    assert "disk-cold" in shown


def test_a_model_that_another_process_maps_gives_no_disk_cold_numbers(run: Run, home: dict[str, str]) -> None:
    run("fake")  # makes the model
    (model,) = (Path(home["XDG_CACHE_HOME"]) / "enginebench" / "models" / "synthetic").glob("tiny-*.gguf")
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as held:
        sum(held[:: mmap.PAGESIZE])
        _, result, _ = run("fake", "--cold", "1")
    fake = case(result, "fake:default")
    (cold,) = [launch for launch in fake["launches"] if launch["kind"] == "cold"]
    assert cold["start_state"]["resident_share"] > 0.9
    for found in (fake["metrics"]["disk_cold_load_ns"], fake["anatomy"]["disk-cold"]):
        assert not found["valid"]
        assert "another process maps it" in found["reasons"][0]
    assert "disk-cold" not in fake["time_to_tokens_ns"]


def test_show_prints_an_earlier_run_in_every_form(run: Run, cli: Cli, tmp_path: Path) -> None:
    _, result, _ = run("fake")
    path = str(tmp_path / "runs" / result["run_id"])
    forms = {form: cli("show", path, "-o", form) for form in ("table", "md", "json", "csv")}
    assert all(done.returncode == 0 and "fake" in done.stdout for done in forms.values())
    assert json.loads(forms["json"].stdout) == result


def test_a_recorded_case_is_reproduced_side_by_side(run: Run, home: dict[str, str], tmp_path: Path) -> None:
    _, result, _ = run("fake")
    path = tmp_path / "runs" / result["run_id"] / "result.json"
    root = Path(__file__).resolve().parents[2]
    python = root / ".envs" / "engine-fake" / "bin" / "python"
    done = subprocess.run(
        [python, "-m", "engine_fake", "reproduce", str(path), "--model", "any"],
        env=home, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ratios = [float(x) for x in re.findall(r"TPOT.*?([\d.]+)  ms", done.stdout)]
    assert statistics.mean(ratios) == pytest.approx(1.0, abs=0.05)


def test_a_dry_run_shows_the_plan_and_writes_nothing(cli: Cli, tmp_path: Path) -> None:
    done = cli("run", "fake", "--model", "tiny", "--dry-run", "--results", str(tmp_path))
    assert done.returncode == 0
    assert "fake:default" in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_dry_run_of_a_sweep_shows_the_product(cli: Cli, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.toml"
    sweep.write_text('engines = ["fake", "fake:slow"]\nn_gen = [8, 16]\nn_depth = "0-64+32"\nthreads = "1-4*2"')
    done = cli("run", "--sweep", str(sweep), "--model", "tiny", "--preset", "standard", "--dry-run")
    assert done.returncode == 0, done.stderr
    product = "1 model x 6 workloads x 3 configurations x 3 thread counts = 54 cases"
    assert f"{product}, {54 * (1 + 10 + 3)} launches" in done.stdout
    assert "tiny  pp128+tg16@d64: a request of 192 + 16 tokens" in done.stdout
    assert "  fake:slow t4" in done.stdout


def test_a_small_time_budget_leaves_out_whole_launches_and_says_so(run: Run) -> None:
    _, result, _ = run("fake", "--iterations", "50", "--n-gen", "100", "--time-budget", "4")
    assert any("measured requests" in line for line in result["plan"]["left_out"])
    assert case(result, "fake:default")["launches"][-1]["requests"][-1]["t_token_ns"][-1] > 0
    assert all(
        len(r["t_token_ns"]) == 100 for launch in case(result, "fake:default")["launches"] for r in launch["requests"]
    )


def test_the_orchestrator_is_idle_while_a_case_is_timed(run: Run) -> None:
    _, result, _ = run("fake", "--n-gen", "500", "--iterations", "4")
    shares = [launch["harness_cpu_share"] for launch in case(result, "fake:default")["launches"]]
    assert max(share for share in shares if share is not None) < 0.02


def test_nothing_of_this_machine_is_named_in_a_result(run: Run) -> None:
    _, result, _ = run("fake:exit")
    text = json.dumps(result)
    assert not re.search(rf"\b{re.escape(os.uname().nodename)}\b", text)
    assert str(Path.home()) + "/" not in text
