"""The scripts: exact delays and ids, and each fault where it was promised. Life as a process: tests/conformance."""

import resource
import tomllib
from array import array
from pathlib import Path

import pytest
from engine_fake import pace
from engine_fake.engine import FakeEngine, fingerprint
from engine_fake.pace import paced
from engine_fake.script import SCRIPTS, VOCABULARY, Script
from enginebench_protocol.engine import Sampling
from enginebench_protocol.errors import EngineFailure
from enginebench_protocol.messages import Load, Loaded
from enginebench_protocol.serve import timed_generate

PACKAGE = Path(__file__).parents[1]
PROMPT = array("i", [1, 2, 3])
MS = 1_000_000


def load(engine: FakeEngine, configuration: str = "instant", path: str = "any.gguf", **options: str) -> Loaded:
    request = Load(
        id=1,
        configuration=configuration,
        model_path=path,
        n_ctx=64,
        device="cpu",
        threads=1,
        cache="unused",
        scratch="unused",
        options=options,
    )
    return engine.load(request, lambda stage, fraction: None)


class FakeClock:
    """Time that passes only while one sleeps or looks: 1 us per look, and sleeps end 30 us late."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ns = 0
        monkeypatch.setattr(pace, "now_ns", self.look)
        monkeypatch.setattr(pace.time, "sleep", self.sleep)

    def look(self) -> int:
        self.now_ns += 1_000
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now_ns += round(seconds * 1e9) + 30_000


def test_tokens_come_on_an_absolute_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock(monkeypatch)
    stamps = [clock.now_ns for _ in paced([7] * 100, [2 * MS] + [MS] * 99, start_ns=0)]
    due = [(2 + i) * MS for i in range(100)]
    assert all(0 <= stamp - at <= 1_000 for stamp, at in zip(stamps, due, strict=True))


def test_a_token_that_came_late_does_not_delay_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock(monkeypatch)
    stamps = []
    for token in paced([0, 1, 2], [MS, MS, MS], start_ns=0):
        if token == 0:
            clock.now_ns += MS // 2  # the caller dawdles
        stamps.append(clock.now_ns)
    assert stamps[0] >= 1.5 * MS
    assert [round(s / MS) for s in stamps[1:]] == [2, 3]


def test_pace_multiplies_every_delay() -> None:
    assert SCRIPTS["default"].delays_ns(3, 0, pace=1.02) == [1_020_000] * 3
    engine = FakeEngine()
    load(engine, "default", pace="3")
    _, start_ns, times = timed_generate(engine, PROMPT, 4)
    assert times[-1] - start_ns >= 12 * MS


def test_the_seed_changes_the_jitter_and_nothing_else() -> None:
    jitter = SCRIPTS["jitter"]
    assert jitter.delays_ns(5, 0, seed="a") == jitter.delays_ns(5, 0, seed="a") != jitter.delays_ns(5, 0, seed="b")


@pytest.mark.parametrize("pace", ["0", "-1", "fast", "inf", "nan"])
def test_a_pace_that_is_no_positive_number_is_refused(pace: str) -> None:
    with pytest.raises(EngineFailure, match="no positive number"):
        load(FakeEngine(), pace=pace)


def test_no_token_is_ever_early() -> None:
    engine = FakeEngine()
    load(engine, "default")
    _, start_ns, times = timed_generate(engine, PROMPT, 30)
    assert all(t - start_ns >= (i + 1) * MS for i, t in enumerate(times))


@pytest.mark.parametrize(
    ("configuration", "prefill_ns", "token_ns"),
    [
        ("default", MS, MS),
        ("instant", 0, 0),
        ("slow1", 1.01 * MS, 1.01 * MS),
        ("slow", 1.05 * MS, 1.05 * MS),
        ("slow20", 1.2 * MS, 1.2 * MS),
    ],
)
def test_a_configuration_is_as_slow_as_it_says(configuration: str, prefill_ns: int, token_ns: int) -> None:
    assert SCRIPTS[configuration].delays_ns(4, n_earlier=9) == [prefill_ns, token_ns, token_ns, token_ns]


def test_warm_up_is_three_slow_requests() -> None:
    per_request = [sum(SCRIPTS["warmup"].delays_ns(10, n)) for n in range(6)]
    assert per_request == [20 * MS] * 3 + [10 * MS] * 3


def test_jitter_is_seeded_and_of_the_promised_size() -> None:
    jitter = SCRIPTS["jitter"]
    delays = jitter.delays_ns(10_000, n_earlier=0)
    assert delays == jitter.delays_ns(10_000, n_earlier=0) != jitter.delays_ns(10_000, n_earlier=1)
    mean = sum(delays) / len(delays)
    deviation = (sum((d - mean) ** 2 for d in delays) / len(delays)) ** 0.5
    assert mean == pytest.approx(MS, rel=0.005)
    assert deviation == pytest.approx(0.05 * MS, rel=0.05)


def test_ids_depend_on_the_prompt_alone() -> None:
    engine = FakeEngine()
    load(engine)
    first, second = list(engine.generate(PROMPT, 8)), list(engine.generate(PROMPT, 8))
    assert first == second
    assert first[:4] == list(engine.generate(PROMPT, 4))
    assert first != list(engine.generate(array("i", [1, 2, 4]), 8))
    assert len(set(first)) == 8
    assert all(0 <= i < VOCABULARY for i in first)


def test_the_wrong_configurations_are_wrong_in_their_ways() -> None:
    engine = FakeEngine()
    load(engine, "wrong")
    assert list(engine.generate(PROMPT, 8)) != list(engine.generate(PROMPT, 8))
    load(engine, "short")
    assert len(list(engine.generate(PROMPT, 8))) == 7
    load(engine, "out-of-range")
    assert min(engine.generate(PROMPT, 8)) >= VOCABULARY


def test_drawn_ids_depend_on_the_seed_and_near_0_they_are_the_greedy_ones() -> None:
    engine = FakeEngine()
    load(engine)
    drawn = list(engine.generate(PROMPT, 8, Sampling(1.0, 5)))
    assert list(engine.generate(PROMPT, 8, Sampling(1.0, 5))) == drawn
    greedy = list(engine.generate(PROMPT, 8))
    assert drawn not in (greedy, list(engine.generate(PROMPT, 8, Sampling(1.0, 6))))
    assert list(engine.generate(PROMPT, 8, Sampling(1e-6, 5))) == greedy
    load(engine, "unseeded")
    assert list(engine.generate(PROMPT, 8, Sampling(1.0, 5))) != list(engine.generate(PROMPT, 8, Sampling(1.0, 5)))
    load(engine, "greedy-only")
    with pytest.raises(EngineFailure, match="no sampling at temperature 1"):
        engine.generate(PROMPT, 8, Sampling(1.0, 5))


def test_what_goes_wrong_when_a_request_is_ended_early() -> None:
    engine = FakeEngine()
    load(engine, "leftover")
    first, ids = list(engine.generate(PROMPT, 8)), engine.generate(PROMPT, 8)
    assert list(engine.generate(PROMPT, 8)) == first
    next(ids)
    ids.close()
    assert list(engine.generate(PROMPT, 8)) != first
    load(engine, "clinging")
    ids = engine.generate(PROMPT, 8)
    next(ids)
    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        ids.close()


def test_a_load_forgets_earlier_requests() -> None:
    engine = FakeEngine()
    load(engine, "wrong")
    first = list(engine.generate(PROMPT, 8))
    load(engine, "wrong")
    assert list(engine.generate(PROMPT, 8)) == first


def test_held_memory_is_resident_and_given_back() -> None:
    engine = FakeEngine()
    before = resident_bytes()
    loaded = load(engine, "memory")
    assert loaded.weights_bytes == engine.memory().weights_bytes == 256 * 2**20
    assert resident_bytes() - before == pytest.approx(256 * 2**20, rel=0.05)
    engine.unload()
    assert resident_bytes() - before < 16 * 2**20


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@pytest.mark.parametrize(
    ("configuration", "error", "words"),
    [("refuse", EngineFailure, "asked to refuse"), ("out-of-memory", MemoryError, "asked to run out")],
)
def test_a_load_that_fails_says_so(configuration: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        load(FakeEngine(), configuration)


def test_a_bug_is_an_exception_in_generate() -> None:
    engine = FakeEngine()
    load(engine, "bug")
    with pytest.raises(ValueError, match="asked to have a bug"):
        next(engine.generate(PROMPT, 1))


def test_it_has_no_logits() -> None:
    with pytest.raises(EngineFailure) as caught:
        FakeEngine().score(PROMPT, 1)
    assert caught.value.code == "unsupported"


def test_the_fingerprint_is_of_name_and_size(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    missing = fingerprint(path)
    path.write_bytes(b"12")
    assert len(missing) == 64
    assert fingerprint(path) != missing
    path.write_bytes(b"21")
    assert fingerprint(path) == fingerprint(path.parent / "m.gguf")
    path.write_bytes(b"123")
    assert len({missing, fingerprint(path)}) == 2


def test_the_table_in_pyproject_says_the_same() -> None:
    table = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["tool"]["enginebench"]["engine"]
    described = {name: c["description"] for name, c in table["configurations"].items()}
    assert (table["name"], described) == (FakeEngine.name, dict(FakeEngine.configurations))
    assert [name for name, c in table["configurations"].items() if c.get("in_all", True)] == ["default"]


def test_a_script_behaves_unless_it_says_otherwise() -> None:
    plain = Script("plain")
    plain.on_load()
    plain.on_generate()
    assert (plain.prefill_ns, plain.token_ns, plain.missing_tokens, plain.held_bytes) == (MS, MS, 0, 0)


# ---- cheats and other conditions ------------------------------------------------------------------------------


def test_a_prompt_that_was_just_seen_is_answered_sooner_by_the_cheat_alone() -> None:
    assert SCRIPTS["prefix-cache"].delays_ns(2, n_earlier=1) == [10 * MS, MS]
    assert SCRIPTS["prefix-cache"].delays_ns(2, n_earlier=1, repeated=True) == [MS, MS]
    assert SCRIPTS["default"].delays_ns(2, n_earlier=1, repeated=True) == [MS, MS]


def test_the_miscount_is_reported_and_honest_scripts_report_nothing() -> None:
    for configuration, reported in (("miscount", {"n_gen": 4, "n_requests": 1}), ("instant", {})):
        engine = FakeEngine()
        load(engine, configuration)
        assert len(list(engine.generate(PROMPT, 3))) == 3
        assert engine.reported() == reported


def test_another_process_answers_otherwise_with_that_script_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {}
    for pid in (1000, 1001):
        monkeypatch.setattr("os.getpid", lambda pid=pid: pid)
        answers[pid] = (SCRIPTS["other-output"].ids(PROMPT, 4, 0), SCRIPTS["default"].ids(PROMPT, 4, 0))
    assert answers[1000][0] != answers[1001][0]
    assert answers[1000][1] == answers[1001][1]


def test_other_conditions_are_told() -> None:
    assert load(FakeEngine(), "other-cache").kv_dtype == "int8"
    assert load(FakeEngine(), "fewer-threads").threads == 1  # of 1: never none
    assert SCRIPTS["fewer-threads"].spare_threads == 1
