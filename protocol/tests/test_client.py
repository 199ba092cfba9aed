"""The parent's side against an engine that answers from a list, rightly and wrongly."""

import os
import time
from collections.abc import Iterator

import pytest
from enginebench_protocol.client import Client
from enginebench_protocol.codec import decode, encode, pack_ids
from enginebench_protocol.errors import (
    DeadlineExceeded,
    EngineFailure,
    FrameError,
    HandshakeError,
    MessageError,
    ProtocolError,
    StreamClosed,
    Truncated,
)
from enginebench_protocol.framing import FrameStream, framed
from enginebench_protocol.messages import (
    Account,
    Done,
    Event,
    Failed,
    Generate,
    Generated,
    Hello,
    Load,
    Loaded,
    Message,
    Progress,
    Request,
    Token,
)
from msgspec import structs
from samples import SAMPLES

BY_KIND = {type(sample): sample for sample in SAMPLES}
PROMPT = pack_ids([1, 2])


class Scripted:
    """A client, and the far end of its pipes. Answers may be written beforehand: a pipe keeps them."""

    def __init__(self) -> None:
        from_engine, self.engine_writes = os.pipe()
        self.engine_reads, to_engine = os.pipe()
        self.fds = {from_engine, self.engine_writes, self.engine_reads, to_engine}
        self.client = Client(FrameStream(from_engine, to_engine))
        self.engine = FrameStream(self.engine_reads, self.engine_writes)

    def answers(self, *messages: Message) -> None:
        for message in messages:
            self.engine.send(encode(message))

    def close(self, *fds: int) -> None:
        for fd in fds or list(self.fds):
            os.close(fd)
            self.fds.remove(fd)


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    made = Scripted()
    yield made
    made.close()


def generated(request_id: int) -> Generated:
    return structs.replace(BY_KIND[Generated], id=request_id)


def loaded(request_id: int) -> Loaded:
    return structs.replace(BY_KIND[Loaded], id=request_id)


def hello(**changes: object) -> Hello:
    return structs.replace(BY_KIND[Hello], nonce="n", **changes)


def test_the_right_hello_is_returned(scripted: Scripted) -> None:
    scripted.answers(hello())
    assert scripted.client.hello("demo", "n", 1) == hello()


@pytest.mark.parametrize(
    "changes", [{"nonce": "m"}, {"engine": "other"}, {"protocol": 2}], ids=["nonce", "engine", "version"]
)
def test_the_hello_of_another_launch_engine_or_version_is_refused(
    scripted: Scripted, changes: dict[str, object]
) -> None:
    scripted.answers(structs.replace(hello(), **changes))
    with pytest.raises(HandshakeError, match="expected"):
        scripted.client.hello("demo", "n", 1)


def test_another_message_is_no_hello(scripted: Scripted) -> None:
    scripted.answers(Done(id=1))
    with pytest.raises(HandshakeError, match="expected hello, got done"):
        scripted.client.hello("demo", "n", 1)


def test_text_before_the_hello_is_a_broken_frame(scripted: Scripted) -> None:
    os.write(scripted.engine_writes, b"Loading model...\n")
    with pytest.raises(FrameError, match="refused"):
        scripted.client.hello("demo", "n", 1)


def test_silence_ends_at_the_deadline(scripted: Scripted) -> None:
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        scripted.client.hello("demo", "n", 0.05)
    assert 0.05 <= time.monotonic() - started < 2


def test_requests_are_numbered_and_carry_their_fields(scripted: Scripted) -> None:
    scripted.answers(generated(1), generated(2))
    scripted.client.generate(PROMPT, 2, 1)
    scripted.client.generate(PROMPT, 3, 1, stream=True)
    assert decode(scripted.engine.receive(), Request) == Generate(id=1, prompt=PROMPT, n_gen=2)
    assert decode(scripted.engine.receive(), Request) == Generate(id=2, prompt=PROMPT, n_gen=3, stream=True)


def test_the_parent_stamps_around_the_request(scripted: Scripted) -> None:
    scripted.answers(generated(1))
    before = time.perf_counter_ns()
    reply, received = scripted.client.generate(PROMPT, 2, 1)
    assert reply == received.reply == generated(1)
    assert before <= received.t_sent_ns <= received.t_received_ns <= time.perf_counter_ns()


def test_events_reach_the_sink_before_the_reply(scripted: Scripted) -> None:
    seen: list[Event] = []
    events = [Progress(id=1, stage="read", fraction=f) for f in (0.0, 1.0)]
    scripted.answers(*events, loaded(1))
    fields = structs.asdict(BY_KIND[Load])
    del fields["id"]
    assert scripted.client.load(1, seen.append, **fields) == loaded(1)
    assert seen == events


def test_tokens_stream_when_asked_for(scripted: Scripted) -> None:
    seen: list[Event] = []
    scripted.answers(Token(id=1, index=0, token=3), generated(1))
    scripted.client.generate(PROMPT, 1, 1, stream=True, on_event=seen.append)
    assert seen == [Token(id=1, index=0, token=3)]


@pytest.mark.parametrize(
    "unasked",
    [
        Token(id=1, index=0, token=3),
        Progress(id=1, stage="read", fraction=0.5),
        Done(id=2),
        Done(id=0),
        Account(id=1, weights_bytes=0, kv_cache_bytes=0),
        hello(),
    ],
    ids=["token", "progress", "later-id", "earlier-id", "another-reply", "second-hello"],
)
def test_what_nobody_asked_for_is_refused(scripted: Scripted, unasked: Message) -> None:
    scripted.answers(unasked, generated(1))
    with pytest.raises(MessageError, match=r"nobody asked for|event in answer to|answered with"):
        scripted.client.generate(PROMPT, 1, 1)


def test_a_token_is_no_event_of_a_load(scripted: Scripted) -> None:
    scripted.answers(Token(id=1, index=0, token=3))
    fields = structs.asdict(BY_KIND[Load])
    del fields["id"]
    with pytest.raises(MessageError, match="token event in answer to load"):
        scripted.client.load(1, **fields)


def test_a_failure_is_raised_with_all_it_says(scripted: Scripted) -> None:
    scripted.answers(Failed(id=1, code="out-of-memory", message="too big", hint="buy more", detail="d"))
    with pytest.raises(EngineFailure, match=r"too big \(buy more\)") as caught:
        scripted.client.memory(1)
    assert (caught.value.code, caught.value.detail) == ("out-of-memory", "d")
    scripted.answers(Done(id=2))
    scripted.client.unload(1)  # the stream still works


def test_a_failure_is_no_protocol_error() -> None:
    assert not issubclass(EngineFailure, ProtocolError)


def test_a_control_reply_beyond_64_kib_is_refused(scripted: Scripted) -> None:
    os.write(scripted.engine_writes, (65_537).to_bytes(4, "big"))
    with pytest.raises(FrameError, match="65537 bytes refused: allowed are 1 to 65536"):
        scripted.client.memory(1)


def test_an_engine_that_left_is_a_closed_stream(scripted: Scripted) -> None:
    scripted.close(scripted.engine_writes)
    with pytest.raises(StreamClosed):
        scripted.client.memory(1)


@pytest.mark.parametrize(
    ("last_words", "error"),
    [(b"", StreamClosed), (b"\x00\x00\x00\x09half", Truncated), (framed(b"\xc1"), MessageError)],
)
def test_what_an_engine_said_before_it_was_gone_tells_more_than_that_it_is_gone(
    scripted: Scripted, last_words: bytes, error: type[ProtocolError]
) -> None:
    """The request cannot be sent any more, but what came before can be read."""
    os.write(scripted.engine_writes, last_words)
    scripted.close(scripted.engine_writes, scripted.engine_reads)
    with pytest.raises(ProtocolError) as found:
        scripted.client.memory(1.0)
    assert type(found.value) is error
