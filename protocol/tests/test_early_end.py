"""A generation that ends early: at a stop id, or by a cancel that came in time, too late, or for nothing."""

import os
import threading
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from enginebench_protocol.client import Client
from enginebench_protocol.codec import decode, encode, pack_ids, unpack_ids, unpack_times
from enginebench_protocol.engine import GREEDY, Engine, Sampling
from enginebench_protocol.errors import EngineFailure, StreamClosed
from enginebench_protocol.framing import FrameStream
from enginebench_protocol.messages import Cancel, FromEngine, Generate, Generated, Load, Memory, Message, Token
from enginebench_protocol.serve import EXIT_PARENT_GONE, EXIT_PROTOCOL, serve, timed_generate
from msgspec import structs
from samples import SAMPLES
from toy_engine import ToyEngine

PROMPT = pack_ids([3, 1])
SECONDS = 5.0


class Watched(ToyEngine):
    """Notes how its generators ended, and how they were asked to sample."""

    def __init__(self) -> None:
        super().__init__()
        self.closed_after: list[int] = []
        self.asked: list[Sampling] = []

    def generate(self, prompt: array, n_gen: int, sampling: Sampling = GREEDY) -> Iterator[int]:
        self.asked.append(sampling)
        n_yielded = 0
        try:
            for token in super().generate(prompt, n_gen):
                n_yielded += 1
                yield token
        except GeneratorExit:
            self.closed_after.append(n_yielded)
            raise


class Pair:
    """A client and a served engine in this process, over real pipes; the engine in a thread of its own."""

    def __init__(self, folder: Path) -> None:
        (folder / "model").touch()
        requests_read, requests_write = os.pipe()
        answers_read, answers_write = os.pipe()
        self.fds = {requests_read, requests_write, answers_read, answers_write}
        self.requests_write = requests_write
        self.engine, self.codes = Watched(), []
        self.client = Client(FrameStream(answers_read, requests_write))
        self.engine_stream = FrameStream(requests_read, answers_write)
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()
        self.client.hello("toy", "n", SECONDS)
        self.client.load(
            SECONDS,
            configuration="plain",
            model_path=str(folder / "model"),
            n_ctx=100_000,
            device="cpu",
            threads=1,
            cache=str(folder),
            scratch=str(folder),
        )

    def _serve(self) -> None:
        self.codes.append(serve(self.engine, self.engine_stream, "n"))

    def tokens(self, n_gen: int = 12, **options: Any) -> list[int]:
        reply, _ = self.client.generate(PROMPT, n_gen, SECONDS, **options)
        assert len(unpack_times(reply.t_token_ns)) == len(reply.tokens) // 4
        return list(unpack_ids(reply.tokens))

    def send(self, *messages: Message) -> None:
        for message in messages:
            self.client.stream.send(encode(message))

    def received(self) -> Message:
        return decode(self.client.stream.receive(timeout=SECONDS), FromEngine)

    def close(self) -> None:
        os.close(self.requests_write)
        self.thread.join(SECONDS)
        assert not self.thread.is_alive()
        for fd in self.fds - {self.requests_write}:
            os.close(fd)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    made.close()


# ---- stop -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_id_is_the_last_token_and_closes_the_generator(pair: Pair, stream: bool) -> None:
    whole = pair.tokens()
    stop = whole[4]
    cut = whole[: whole.index(stop) + 1]
    assert pair.tokens(stop=[stop], stream=stream) == cut
    assert pair.engine.closed_after == [len(cut)]
    assert pair.tokens() == whole, "the next request is a whole one"


def test_an_id_that_never_comes_stops_nothing(pair: Pair) -> None:
    whole = pair.tokens()
    (unused, *_) = set(range(16)) - set(whole)
    assert pair.tokens(stop=[unused, 500_000]) == whole
    assert pair.engine.closed_after == []


@pytest.mark.parametrize("stop", [b"\1\0\0", array("i", [-1]).tobytes()], ids=["torn", "negative"])
def test_damaged_stop_ids_are_a_bad_request(pair: Pair, stop: bytes) -> None:
    with pytest.raises(EngineFailure, match=r"packed array|negative") as caught:
        pair.client.request(Generate(id=7, prompt=PROMPT, n_gen=2, stop=stop), SECONDS)
    assert caught.value.code == "bad-request"
    assert len(pair.tokens(2)) == 2


def test_fewer_tokens_without_a_stop_or_a_cancel_are_still_a_failure(pair: Pair) -> None:
    pair.engine.configuration = "short"
    with pytest.raises(EngineFailure, match="produced 3 of 4 tokens"):
        pair.tokens(4, stop=[99], stream=True)


# ---- cancel -----------------------------------------------------------------------------------------------------


def test_a_cancel_in_the_event_callback_ends_the_generation_early(pair: Pair) -> None:
    whole = pair.tokens(12)
    sent, events = [], []

    def on_event(event: Token) -> None:
        events.append(event)
        if event.index == 2:
            sent.append(pair.client.cancel())
            sent.append(pair.client.cancel())

    tokens = pair.tokens(90_000, stream=True, on_event=on_event)
    assert sent == [True, False], "one cancel for one request"
    assert 3 <= len(tokens) < 90_000
    assert tokens[:12] == whole[: len(tokens[:12])]
    assert [e.token for e in events] == tokens, "what was streamed is what the reply holds"
    assert pair.engine.closed_after == [len(tokens)]
    assert pair.tokens(12) == whole


def test_a_cancel_from_another_thread_ends_the_generation_early(pair: Pair) -> None:
    begun = threading.Event()
    other = threading.Thread(target=lambda: begun.wait(SECONDS) and pair.client.cancel())
    other.start()
    tokens = pair.tokens(90_000, stream=True, on_event=lambda event: begun.set())
    other.join()
    assert 1 <= len(tokens) < 90_000


def test_there_is_nothing_to_cancel_without_a_streaming_generation(pair: Pair) -> None:
    assert not pair.client.cancel()
    whole = pair.tokens(12)
    assert not pair.client.cancel()
    assert pair.tokens(12, stream=True) == whole
    assert not pair.client.cancel()
    assert pair.tokens(12, stream=True) == whole


def test_a_cancel_that_comes_too_late_is_dropped_in_silence(pair: Pair) -> None:
    whole = pair.tokens(12)
    pair.send(Cancel(id=2), Cancel(id=99), Generate(id=50, prompt=PROMPT, n_gen=12))
    reply = pair.received()
    assert isinstance(reply, Generated)
    assert (reply.id, list(unpack_ids(reply.tokens))) == (50, whole)


def test_a_cancel_of_a_timed_generation_is_not_looked_at(pair: Pair) -> None:
    pair.send(Generate(id=50, prompt=PROMPT, n_gen=12), Cancel(id=50), Memory(id=51))
    assert len(pair.received().tokens) == 4 * 12
    assert pair.received().id == 51
    assert pair.engine.closed_after == []


@pytest.mark.parametrize(
    "other",
    [encode(Cancel(id=51)), encode(Memory(id=50)), b"garbage"],
    ids=["cancel-of-another", "a-request", "no-message"],
)
def test_anything_else_while_a_generation_streams_breaks_the_protocol(
    pair: Pair, other: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    pair.send(Generate(id=50, prompt=PROMPT, n_gen=50_000, stream=True))
    pair.client.stream.send(other)
    pair.thread.join(SECONDS)
    assert pair.codes == [EXIT_PROTOCOL]
    assert "protocol:" in capsys.readouterr().err


def test_a_parent_that_leaves_while_a_generation_streams_ends_the_session(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.send(Generate(id=50, prompt=PROMPT, n_gen=90_000, stream=True))
    assert isinstance(pair.received(), Token)
    pair.close()
    assert pair.codes == [EXIT_PARENT_GONE]


def test_a_frame_that_has_not_begun_is_no_reason_to_wait() -> None:
    read_fd, write_fd = os.pipe()
    reader, writer = FrameStream(read_fd, read_fd), FrameStream(write_fd, write_fd)
    assert reader.receive_if_any() is None
    writer.send(b"one")
    writer.send(b"two")
    assert [reader.receive_if_any(), reader.receive_if_any(), reader.receive_if_any()] == [b"one", b"two", None]
    os.close(write_fd)
    with pytest.raises(StreamClosed):
        reader.receive_if_any()
    os.close(read_fd)


# ---- sampling ---------------------------------------------------------------------------------------------------


def test_temperature_and_seed_reach_the_engine_and_a_plain_request_is_greedy(pair: Pair) -> None:
    pair.tokens(2)
    pair.tokens(2, sampling=Sampling(0.75, 42))
    assert pair.engine.asked == [GREEDY, Sampling(0.75, 42)]
    assert [s.greedy for s in pair.engine.asked] == [True, False]


def test_what_cannot_be_closed_is_left_alone() -> None:
    class List(ToyEngine):
        def generate(self, prompt: array, n_gen: int, sampling: Sampling = GREEDY) -> Iterator[int]:
            return iter([5, 6, 7])

    tokens, _, times = timed_generate(List(), array("i", [1]), 3, after_token=lambda index, token: token == 6)
    assert (list(tokens), len(times)) == ([5, 6], 2)


def test_an_engine_without_a_profiler_says_so_and_one_with_it_names_its_files(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EngineFailure, match="toy has no profiler") as caught:
        pair.client.profile(PROMPT, 2, SECONDS)
    assert caught.value.code == "unsupported"

    def profile(self: Engine, prompt: array, n_gen: int, folder: Path) -> dict[str, Path]:
        (folder / "trace.json").write_text(f"{list(prompt)} {n_gen}")
        return {"trace.json": folder / "trace.json"}

    monkeypatch.setattr(ToyEngine, "profile", profile)
    files = pair.client.profile(PROMPT, 2, SECONDS).files
    assert Path(files["trace.json"]).read_text() == "[3, 1] 2"


def test_a_load_of_an_older_parent_has_one_shard() -> None:
    (load,) = [sample for sample in SAMPLES if isinstance(sample, Load)]
    fields = structs.asdict(load)
    del fields["shards"]
    assert Load(**fields).shards == 1
