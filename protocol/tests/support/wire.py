"""What arrives on the wire, without a pipe: bytes in the pieces that a test wants, and both ends' reading of them."""

from collections.abc import Iterable
from itertools import pairwise

from document import DOCUMENT, marked_part, tag
from enginebench_protocol import framing
from enginebench_protocol.client import Client
from enginebench_protocol.codec import decode, encode
from enginebench_protocol.errors import EngineFailure, ProtocolError, StreamClosed
from enginebench_protocol.framing import FrameStream
from enginebench_protocol.messages import FromEngine, Message, ToEngine
from enginebench_protocol.serve import serve
from samples import SAMPLES
from toy_engine import ToyEngine

NONCE = "00112233445566778899aabbccddeeff"


def golden_frames() -> dict[str, bytes]:
    """As docs/protocol.md prints them: name of the message -> the whole frame."""
    text, frames = DOCUMENT.read_text(), {}
    for sample in SAMPLES:
        name = tag(type(sample))
        part = marked_part(f"frame {name}", text)
        assert part is not None
        frames[name] = bytes.fromhex(part.group(1).replace("```", ""))
    return frames


class Pieces:
    """Stands in for `os` in framing.py: a read gives the next piece or less, then the end of the stream.

    Between two pieces there is nothing to read once, so that the reader has to wait.
    """

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self.rest = [piece for piece in pieces if piece]
        self.waits = 0
        self.written = bytearray()
        self._dry = False

    def set_blocking(self, fd: int, blocking: bool) -> None:
        pass

    def read(self, fd: int, n: int) -> bytes:
        if not self.rest:
            return b""
        if self._dry:
            self._dry = False
            self.waits += 1
            raise BlockingIOError
        piece = self.rest.pop(0)
        if len(piece) > n:
            self.rest.insert(0, piece[n:])
        else:
            self._dry = bool(self.rest)
        return piece[:n]

    def write(self, fd: int, data: bytes) -> int:
        self.written += data
        return len(data)


class Wire:
    """FrameStreams over Pieces, for the time of a `with`."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self.pieces = Pieces(pieces)

    def __enter__(self) -> FrameStream:
        self.kept = framing.os, framing._wait
        framing.os = self.pieces  # type: ignore[attr-defined]
        framing._wait = lambda *_: None
        return FrameStream(0, 1)

    def __exit__(self, *_: object) -> None:
        framing.os, framing._wait = self.kept  # type: ignore[attr-defined]


def chunks(raw: bytes, cuts: Iterable[int]) -> list[bytes]:
    places = [0, *sorted(cut for cut in cuts if 0 < cut < len(raw)), len(raw)]
    return [raw[a:b] for a, b in pairwise(places)]


def read_all(raw: bytes, cuts: Iterable[int] = ()) -> list[bytes]:
    """Every payload until the stream ends or breaks. Raises ProtocolError where it breaks."""
    payloads = []
    with Wire(chunks(raw, cuts)) as stream:
        try:
            while True:
                payloads.append(stream.receive())
        except StreamClosed:
            return payloads


def to_engine(raw: bytes, cuts: Iterable[int] = ()) -> int:
    """A whole session of the toy engine that is sent these bytes. Returns its exit code."""
    wire = Wire(chunks(raw, cuts))
    with wire as stream:
        code = serve(ToyEngine(), stream, "n")
    answers = read_all(bytes(wire.pieces.written))
    for answer in answers:
        decode(answer, FromEngine)
    return code


def from_engine(raw: bytes, cuts: Iterable[int] = ()) -> str:
    """A whole session of the client that is answered with these bytes. Returns how it ended: the error's name."""
    calls = [
        lambda client: client.hello("demo", NONCE, 1.0),
        lambda client: client.load(1.0, **LOAD),
        lambda client: client.generate(b"\1\0\0\0", 2, 1.0, stream=True, on_event=lambda event: client.cancel()),
        lambda client: client.score([1, 2], 1, 1.0),
        lambda client: client.profile(b"\1\0\0\0", 2, 1.0),
        lambda client: client.memory(1.0),
        lambda client: client.unload(1.0),
        lambda client: client.shutdown(1.0),
    ]
    with Wire(chunks(raw, cuts)) as stream:
        client = Client(stream)
        for call in calls:
            try:
                call(client)
            except EngineFailure:
                continue
            except ProtocolError as error:
                return type(error).__name__
    return ""


LOAD = {
    "configuration": "default",
    "model_path": "/models/tiny.gguf",
    "n_ctx": 192,
    "device": "cpu",
    "threads": 2,
    "cache": "/cache/demo",
    "scratch": "/scratch/1",
}


def decoded(payload: bytes) -> Message | None:
    """A message of either direction; None where it is refused. What is accepted is written and read alike."""
    try:
        message: Message = decode(payload, ToEngine | FromEngine)
    except ProtocolError:
        return None
    assert decode(encode(message), ToEngine | FromEngine) == message
    return message
