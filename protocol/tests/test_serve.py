"""The engine's side: one answer to each request, and no mistake of an engine ends the process."""

import os
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from enginebench_protocol.codec import decode, encode, pack_ids, unpack_ids, unpack_times
from enginebench_protocol.errors import EngineFailure, ProtocolError, StreamClosed
from enginebench_protocol.framing import FrameStream, framed
from enginebench_protocol.messages import (
    Done,
    FromEngine,
    Generate,
    Load,
    Loaded,
    Memory,
    Message,
    Request,
    Score,
    Shutdown,
    Unload,
)
from enginebench_protocol.prompts import ids_sha256
from enginebench_protocol.serve import EXIT_PARENT_GONE, EXIT_PROTOCOL, Session, serve, timed_generate
from toy_engine import VOCABULARY, ToyEngine, argmax, logits

np = pytest.importorskip("numpy")


class Parent:
    """Sends one request to a session in this process and returns its answers, the terminal one last."""

    def __init__(self, folder: Path) -> None:
        self.model = folder / "model"
        self.model.touch()
        self.folder = folder
        requests_read, requests_write = os.pipe()
        answers_read, answers_write = os.pipe()
        self.fds = (requests_read, requests_write, answers_read, answers_write)
        self.stream = FrameStream(answers_read, requests_write)
        self.session = Session(ToyEngine(), FrameStream(requests_read, answers_write))

    def ask(self, request: Request) -> list[Message]:
        self.session.answer(request)
        answers: list[Message] = []
        while not answers or type(answers[-1]).__name__ in ("Progress", "Token"):
            answers.append(decode(self.stream.receive(timeout=5), FromEngine))
        with pytest.raises(ProtocolError):
            self.stream.receive(timeout=0)
        return answers

    def answer(self, request: Request) -> Any:
        return self.ask(request)[-1]

    def load(self, configuration: str = "plain", n_ctx: int = 32, **changes: Any) -> Any:
        fields: dict[str, Any] = {
            "id": 1,
            "configuration": configuration,
            "model_path": str(self.model),
            "n_ctx": n_ctx,
            "device": "cpu",
            "threads": 1,
            "cache": str(self.folder),
            "scratch": str(self.folder),
        }
        return self.answer(Load(**(fields | changes)))


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[Parent]:
    made = Parent(tmp_path)
    yield made
    for fd in made.fds:
        os.close(fd)


def ask_generate(ids: list[int], n_gen: int = 4, **changes: Any) -> Generate:
    return Generate(id=9, prompt=pack_ids(ids), n_gen=n_gen, **changes)


def test_a_load_reports_progress_within_bounds_and_what_was_loaded(parent: Parent) -> None:
    *events, loaded = parent.ask(
        Load(
            id=4,
            configuration="plain",
            model_path=str(parent.model),
            n_ctx=8,
            device="cpu",
            threads=1,
            cache="c",
            scratch="s",
        )
    )
    assert [e.fraction for e in events] == [0.5, 1.0]
    assert isinstance(loaded, Loaded)
    assert (loaded.id, loaded.vocab_size) == (4, VOCABULARY)


def test_a_generation_has_its_tokens_times_and_hash(parent: Parent) -> None:
    parent.load()
    reply = parent.answer(ask_generate([3, 1], n_gen=5))
    tokens = [3, 1]
    for _ in range(5):
        tokens.append(argmax(logits(tokens)))
    assert list(unpack_ids(reply.tokens)) == tokens[2:]
    assert reply.prompt_sha256 == ids_sha256(pack_ids([3, 1]))
    times = unpack_times(reply.t_token_ns)
    assert len(times) == 5
    assert times[0] >= reply.t_start_ns > 0
    assert reply.n_prompt == 2


def test_tokens_are_events_only_when_streaming(parent: Parent) -> None:
    parent.load()
    assert len(parent.ask(ask_generate([3], n_gen=4))) == 1
    *events, reply = parent.ask(ask_generate([3], n_gen=4, stream=True))
    assert [e.token for e in events] == list(unpack_ids(reply.tokens))
    assert [e.index for e in events] == [0, 1, 2, 3]


def test_scored_logits_are_those_of_the_engine(parent: Parent) -> None:
    parent.load()
    reply = parent.answer(Score(id=2, tokens=pack_ids([3, 1, 2, 5]), n_prefill=2))
    matrix = np.load(reply.path)
    assert reply.n_rows == 3
    assert matrix.tolist() == [logits([3, 1]), logits([3, 1, 2]), logits([3, 1, 2, 5])]
    assert Path(reply.path).parent == parent.folder


def test_memory_is_the_account_of_the_engine(parent: Parent) -> None:
    parent.load()
    account = parent.answer(Memory(id=3))
    assert (account.weights_bytes, account.kv_cache_bytes, account.device_peak_bytes) == (64, 32, None)


@pytest.mark.parametrize(
    ("ids", "n_gen", "complaint"),
    [
        ([], 1, "empty"),
        ([VOCABULARY], 1, "token id 16 outside the vocabulary of 16"),
        ([1] * 30, 3, r"30 \+ 3 positions exceed the context of 32"),
    ],
)
def test_ids_that_the_model_cannot_take_are_a_bad_request(
    parent: Parent, ids: list[int], n_gen: int, complaint: str
) -> None:
    parent.load()
    failed = parent.answer(ask_generate(ids, n_gen))
    assert failed.code == "bad-request"
    assert failed.id == 9
    assert re.search(complaint, failed.message)
    assert parent.answer(ask_generate([1], 1)).n_prompt == 1


def test_a_full_context_is_fine(parent: Parent) -> None:
    parent.load()
    assert parent.answer(ask_generate([1] * 30, 2)).n_prompt == 30


@pytest.mark.parametrize("packed", [b"\x01\x00\x00", array("i", [-1]).tobytes()], ids=["torn", "negative"])
def test_damaged_ids_are_a_bad_request(parent: Parent, packed: bytes) -> None:
    parent.load()
    assert parent.answer(Generate(id=9, prompt=packed, n_gen=1)).code == "bad-request"


def test_a_prefill_longer_than_the_ids_is_a_bad_request(parent: Parent) -> None:
    parent.load()
    failed = parent.answer(Score(id=2, tokens=pack_ids([1, 2]), n_prefill=3))
    assert (failed.code, failed.message) == ("bad-request", "n_prefill 3 exceeds 2 tokens")


def test_work_before_a_load_is_a_bad_request(parent: Parent) -> None:
    for request in (ask_generate([1]), Score(id=1, tokens=pack_ids([1]), n_prefill=1), Memory(id=1)):
        failed = parent.answer(request)
        assert (failed.code, failed.message) == ("bad-request", "no model is loaded")


def test_a_second_load_needs_an_unload_between(parent: Parent) -> None:
    parent.load()
    assert parent.load().code == "bad-request"
    parent.answer(Unload(id=2))
    assert isinstance(parent.load(), Loaded)


def test_unloading_nothing_is_done(parent: Parent) -> None:
    assert parent.answer(Unload(id=2)) == Done(id=2)


def test_an_option_reaches_the_engine_and_an_unknown_one_is_unsupported(parent: Parent) -> None:
    answer = parent.load(options={"colour": "red"})
    assert (answer.code, answer.message, answer.hint) == ("unsupported", "unknown option 'colour'", "toy has offset")
    parent.load(options={"offset": "3"})
    assert parent.session.engine.offset == 3


def test_an_unknown_configuration_is_unsupported_and_names_the_known_ones(parent: Parent) -> None:
    failed = parent.load(configuration="plane")
    assert failed.code == "unsupported"
    assert "'plane'" in failed.message
    assert "plain, noisy" in failed.hint


def test_shards_are_refused_before_an_engine_that_knows_none_could_overlook_them(parent: Parent) -> None:
    failed = parent.load(shards=2)
    assert (failed.code, failed.message) == ("unsupported", "toy does not shard")
    assert isinstance(parent.load(shards=1), Loaded)


def test_a_failed_load_leaves_no_model(parent: Parent) -> None:
    failed = parent.load(model_path="nowhere")
    assert (failed.code, failed.message, failed.hint) == ("bad-model", "no file nowhere", "give a file that exists")
    assert parent.answer(ask_generate([1])).message == "no model is loaded"


def test_a_bug_of_the_engine_is_an_internal_failure_with_its_traceback(parent: Parent) -> None:
    parent.load()
    parent.session.engine.configuration = "bug"
    failed = parent.answer(ask_generate([1]))
    assert (failed.code, failed.message) == ("internal", "RuntimeError: a bug of the toy engine")
    assert "toy_engine.py" in failed.detail


def test_a_library_that_is_missing_is_unsupported_and_named(parent: Parent) -> None:
    failed = parent.load("bare")
    assert (failed.code, failed.message) == ("unsupported", "a library is missing: No module named 'no_such_library'")


@pytest.mark.parametrize(
    ("configuration", "complaint"), [("short", "produced 3 of 4 tokens"), ("long", "more than the 4 tokens")]
)
def test_another_number_of_tokens_is_an_internal_failure(parent: Parent, configuration: str, complaint: str) -> None:
    parent.load(configuration)
    failed = parent.answer(ask_generate([1], 4))
    assert failed.code == "internal"
    assert complaint in failed.message


@pytest.mark.parametrize("message", ["é" * 100_000, "lone \ud800 surrogate", ""], ids=["long", "unencodable", "empty"])
def test_any_text_of_a_failure_fits_into_a_control_frame(
    parent: Parent, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    def explode(*_: object) -> None:
        raise EngineFailure("internal", message, message, message)

    monkeypatch.setattr(ToyEngine, "load", explode)
    failed = parent.load()
    assert failed.code == "internal"
    assert failed.message
    assert len(encode(failed)) <= 65_536


def test_running_out_of_memory_is_a_failure_of_that_name(parent: Parent, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object) -> None:
        raise MemoryError("1 TB")

    monkeypatch.setattr(ToyEngine, "load", explode)
    failed = parent.load()
    assert (failed.code, failed.message) == ("out-of-memory", "out of host memory: 1 TB")


def test_an_error_that_speaks_of_memory_is_that_failure_in_a_request_too(
    parent: Parent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an engine's own load does not catch: libraries raise classes of their own, some a RuntimeError."""

    def explode(*_: object) -> None:
        raise RuntimeError("CUDA Error 2, out of memory")

    monkeypatch.setattr(ToyEngine, "load", explode)
    failed = parent.load()
    assert (failed.code, failed.message) == ("out-of-memory", "RuntimeError: CUDA Error 2, out of memory")
    assert "explode" in failed.detail


def test_stamps_are_taken_when_each_token_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100, 1000, 100))
    monkeypatch.setattr("enginebench_protocol.serve.time.perf_counter_ns", lambda: next(clock))
    engine = ToyEngine()
    engine.configuration = "plain"
    tokens, start_ns, times = timed_generate(engine, array("i", [1]), 3)
    assert (start_ns, list(times), len(tokens)) == (100, [200, 300, 400], 3)


def served(*frames: bytes) -> tuple[int, list[Message]]:
    """Exit code and answers of a whole session that is sent these raw bytes, then end of file."""
    requests_read, requests_write = os.pipe()
    answers_read, answers_write = os.pipe()
    os.write(requests_write, b"".join(frames))
    os.close(requests_write)
    code = serve(ToyEngine(), FrameStream(requests_read, answers_write), "n")
    os.close(answers_write)
    answers, reader = [], FrameStream(answers_read, answers_read)
    try:
        while True:
            answers.append(decode(reader.receive(), FromEngine))
    except StreamClosed:
        pass
    os.close(requests_read)
    os.close(answers_read)
    return code, answers


def test_a_shutdown_is_answered_and_ends_with_0() -> None:
    code, (hello, done) = served(framed(encode(Shutdown(id=5))))
    assert (code, hello.engine, hello.nonce, hello.pid, done) == (0, "toy", "n", os.getpid(), Done(id=5))


def test_an_end_of_file_ends_with_75() -> None:
    assert served()[0] == EXIT_PARENT_GONE == 75


@pytest.mark.parametrize(
    "garbage",
    [
        framed(b"\x81\xa4type\xa6reboot"),
        framed(b"garbage"),
        b"\x00\x00\x00\x00",
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x09short",
    ],
    ids=["unknown-message", "no-msgpack", "length-zero", "huge-length", "cut-short"],
)
def test_a_broken_stream_ends_with_76_and_a_word_on_stderr(garbage: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    code, answers = served(garbage)
    assert code == EXIT_PROTOCOL == 76
    assert len(answers) == 1, "only the hello"
    assert "protocol:" in capsys.readouterr().err


def test_a_parent_that_left_before_the_hello_ends_with_75() -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    null = os.open(os.devnull, os.O_RDONLY)
    assert serve(ToyEngine(), FrameStream(null, write_fd), "n") == EXIT_PARENT_GONE
    os.close(write_fd)
    os.close(null)
