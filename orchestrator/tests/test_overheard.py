"""What `--debug` prints of a frame."""

from __future__ import annotations

import os

import pytest
from enginebench.run.overheard import LONGEST, shown, stream_of
from enginebench_protocol.codec import encode
from enginebench_protocol.messages import Done, Failed, Generate


def test_a_frame_is_its_type_and_fields_and_packed_numbers_are_counted() -> None:
    assert shown(encode(Generate(id=3, prompt=bytes(16), n_gen=2))).startswith(
        "generate id=3 prompt=<16 bytes> n_gen=2"
    )


@pytest.mark.parametrize("payload", [b"\xc1", b"\x01", b"\x93\x01\x02\x03", b"\xff\xfe"])
def test_what_is_no_message_is_told_as_bytes(payload: bytes) -> None:
    assert shown(payload) == f"{len(payload)} bytes that are no message"


def test_a_long_or_odd_field_neither_floods_nor_drives_the_terminal() -> None:
    text = shown(encode(Failed(id=1, code="internal", message="\x1b[2J" + "x" * 4000)))
    assert len(text) <= LONGEST
    assert text.isprintable()


def test_frames_pass_unchanged_and_are_told_in_order() -> None:
    told: list[str] = []
    read_fd, write_fd = os.pipe()
    stream = stream_of(read_fd, write_fd, told.append)
    stream.send(encode(Done(id=7)))
    assert stream.receive(timeout=5) == encode(Done(id=7))
    assert told == ["       < done id=7", "engine > done id=7"]
    os.close(read_fd)
    os.close(write_fd)
