"""Launches of real processes that go wrong: what is recorded, how soon, and what is left of them."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import msgspec
import pytest
from enginebench.machine.oom import OomKills
from enginebench.machine.watch import Watch
from enginebench.plan.schedule import Fit
from enginebench.run import launch as launch_module
from enginebench.run import launcher as launcher_module
from enginebench.run.interrupts import Interrupts
from enginebench.run.launch import run_launch
from enginebench.run.launcher import Launcher, TaintedMachine
from enginebench.run.limits import Ladder, Limits
from enginebench.run.order import LaunchOrder
from enginebench.run.passed_on import engine_environment
from enginebench.run.spent import Spent
from enginebench.store.record import Kind, Launch
from enginebench.workspace.environment import Interpreter

ENGINE = """
import ctypes, os, signal, sys, time
from enginebench_protocol.engine import Engine
from enginebench_protocol.main import run
from enginebench_protocol.messages import Loaded


def fork_and_die():
    if os.fork():
        os._exit(7)
    time.sleep(1000)


def gorge():
    with open(os.environ["GROUP"] + "/cgroup.procs", "w") as group:
        group.write(str(os.getpid()))
    held = bytearray(200 * 2**20)
    held[::4096] = b"x" * len(held[::4096])


def compute():
    while True:
        pass


MISDEEDS = {
    "none": lambda: None,
    "sleep": lambda: time.sleep(1000),
    "native": lambda: ctypes.PyDLL(None).sleep(1000),
    "compute": compute,
    "die": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "fork": fork_and_die,
    "gorge": gorge,
}


class Wayward(Engine):
    name = "x"
    configurations = dict.fromkeys(MISDEEDS, "")

    def load(self, request, progress):
        self.misdeed = MISDEEDS[request.configuration]
        return Loaded(
            id=request.id, weights_fingerprint="0" * 64, precision="none", weight_dtype="none", activation_dtype="none",
            kv_dtype="none", device="cpu", threads=1, n_ctx=request.n_ctx, vocab_size=100, weights_bytes=0,
            kv_cache_bytes=0, read_bytes_per_token=0, stages={}, versions={},
        )

    def generate(self, prompt, n_gen, sampling=None):
        self.misdeed()
        yield from range(n_gen)

    def score(self, tokens, n_prefill): ...
    def memory(self): ...
    def unload(self): ...


if __name__ == "__main__":
    run("wayward:Wayward")
"""
LIMITS = Limits(stall=1.2, death=1.0, ladder=Ladder(grace=2.0, broken_grace=0.05, term=1.0, abort=1.0))
Launched = Callable[..., Launch]


@pytest.fixture
def launched(records: Any, tmp_path: Path, subreaper: None) -> Launched:
    """launched(misdeed, silence, **changes of the order): one timed launch of two requests."""
    (tmp_path / "wayward.py").write_text(ENGINE)
    python_path = ":".join([str(tmp_path), *(path for path in sys.path if path)])

    def call(misdeed: str, silence: float = 60.0, group: Path | None = None, **changes: Any) -> Launch:
        given = engine_environment({"PYTHONPATH": python_path, "GROUP": str(group)})
        interpreter = Interpreter(Path(sys.executable), given, None, {})
        order = LaunchOrder(
            case=records.case("x", misdeed),
            kind="timed",
            block=0,
            order=0,
            module="wayward",
            model_path=tmp_path / "model",
            device="cpu",
            threads=1,
            cache=tmp_path,
            seed=0,
            warmup=1,
            iterations=1,
            silence_seconds=silence,
            **{"limits": LIMITS, **changes},
        )
        return run_launch(order, interpreter, lambda _: None)

    return call


def test_a_sound_engine_ends_well(launched: Launched) -> None:
    launch = launched("none")
    assert (launch.failure, launch.remains, len(launch.requests)) == (None, [], 2)


@pytest.mark.parametrize("misdeed", ["sleep", "native"])
def test_a_hang_is_found_by_its_lack_of_life_and_says_where_it_stands(launched: Launched, misdeed: str) -> None:
    """`native` holds the interpreter: no thread of that process could say anything any more."""
    started = time.monotonic()
    failure = launched(misdeed).failure
    assert time.monotonic() - started < 15.0  # of 60 s of silence that are allowed
    assert failure is not None
    assert (failure.reason, failure.stage, failure.ended_with) == ("hang", "request 1", "SIGABRT")
    assert (failure.exit_code, failure.signal) == (None, None)
    assert any("wayward.py" in line and "generate" in line for line in failure.stderr_tail)


def test_one_that_computes_may_do_so_until_its_deadline(launched: Launched) -> None:
    failure = launched("compute", silence=3.0, limits=replace(LIMITS, stall=3.0)).failure
    assert failure is not None
    assert (failure.reason, failure.stage) == ("deadline", "request 1")
    assert "3 s" in failure.message


def test_a_process_whose_children_hold_its_stream_has_ended_all_the_same(launched: Launched) -> None:
    """It was once waited for until the silence was over."""
    started = time.monotonic()
    failure = launched("fork").failure
    assert time.monotonic() - started < 15.0
    assert failure is not None
    assert (failure.reason, failure.exit_code) == ("exit", 7)


@pytest.mark.parametrize(("counts", "reason"), [((5, 6), "out-of-memory"), ((5, 5), "signal")])
def test_a_sigkill_is_the_kernels_where_it_counted_one(
    launched: Launched, monkeypatch: pytest.MonkeyPatch, counts: tuple[int, int], reason: str
) -> None:
    found = iter(counts)
    planted = SimpleNamespace(read=lambda: OomKills(None, next(found)))
    monkeypatch.setattr(launch_module, "OomKills", planted)
    failure = launched("die").failure
    assert failure is not None
    assert (failure.reason, failure.signal) == (reason, signal.SIGKILL)


def test_an_engine_that_the_kernel_kills_for_its_memory_is_out_of_memory(launched: Launched, small_group: Path) -> None:
    """For real, where a control group can be made."""
    failure = launched("gorge", group=small_group).failure
    assert failure is not None
    assert (failure.reason, failure.out_of, failure.signal) == ("out-of-memory", "host", signal.SIGKILL)


def gpu_watch(*used: int) -> Watch:
    """A GPU with so much memory in use, reading by reading; the last one stays."""
    readings = list(used)
    memory = lambda: SimpleNamespace(used_bytes=readings.pop(0) if len(readings) > 1 else readings[0])  # noqa: E731
    gpu: Any = SimpleNamespace(memory=memory, utilisation_percent=lambda: 0)
    return Watch(gpu)


@pytest.mark.parametrize(
    ("after", "left"), [((0,), None), ((2**30, 2**30, 0), None), ((64 * 2**20,), None), ((2**30,), 2**30)]
)
def test_the_memory_of_a_gpu_must_come_back(after: tuple[int, ...], left: int | None) -> None:
    assert gpu_watch(0, *after).memory_left(0.5) == left


@pytest.mark.parametrize("kind", ["profile", "check"])
def test_a_launch_that_leaves_something_behind_taints_the_machine(
    kind: Kind, records: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is kept, and no other launch is made, not even of a check that had to make its weights first."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    loaded = records.loaded(weights_path="x.gguf", stages_ns={"convert": 5})
    remains = ["1024 MiB of the GPU's memory"]
    launch = records.timed([records.request(0, (9, 10, 11))], loaded=loaded, remains=remains)
    run_launch = Mock(return_value=launch)
    monkeypatch.setattr(launcher_module, "run_launch", run_launch)
    kept: list[Launch] = []
    launcher = Launcher.__new__(Launcher)
    case = launch.case
    launcher.infos = {case.id: SimpleNamespace(role="test", module="m", name="x")}  # type: ignore[dict-item]
    launcher.models = {case.model: Mock(located=SimpleNamespace(path=tmp_path))}
    launcher.interpreter_of = lambda _: None  # type: ignore[assignment,return-value]
    launcher.device, launcher.threads, launcher.seed, launcher.silence_seconds = "cpu", 1, 0, 1.0
    launcher.options, launcher.watch, launcher.tell = {}, Watch(), None
    launcher.folder, launcher.workloads, launcher.launches, launcher.recorded = tmp_path, [], [], []
    launcher.interrupts, launcher.spent = Interrupts(), Spent(clock=lambda: 0)
    launcher.watchdog, launcher.weights = None, Mock()  # type: ignore[assignment]
    launcher.journal = SimpleNamespace(append=kept.append)  # type: ignore[assignment]
    launcher.bar = SimpleNamespace(say=lambda _: None, note=lambda _: None)  # type: ignore[assignment]
    with pytest.raises(TaintedMachine, match="left behind 1024 MiB of the GPU's memory"):
        launcher.launch(case, kind, 0, 0, Fit(1, 1, 1, ()))
    run_launch.assert_called_once()
    assert kept == launcher.launches == [msgspec.structs.replace(launch, spent_ns=0)]
