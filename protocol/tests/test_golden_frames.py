"""docs/protocol.md: its golden frames are what the code writes and reads, its tables are those of the messages."""

import re

import document
import pytest
from document import DOCUMENT, generated_parts, marked_part, tag
from enginebench_protocol.codec import decode, encode
from enginebench_protocol.messages import FAILURE_CODES, Event, FromEngine, Message, Reply, ToEngine
from msgspec import structs
from samples import SAMPLES

TEXT = DOCUMENT.read_text()
BY_TAG = {tag(type(sample)): sample for sample in SAMPLES}


def golden_frame(name: str) -> bytes:
    part = marked_part(f"frame {name}", TEXT)
    assert part is not None, f"docs/protocol.md has no golden frame of {name}"
    return bytes.fromhex(part.group(1).replace("```", ""))


def changed(message: Message) -> Message:
    return structs.replace(message, id=message.id + 1) if hasattr(message, "id") else structs.replace(message, pid=1)


@pytest.mark.parametrize("name", BY_TAG)
def test_a_golden_frame_decodes_to_its_message_and_encodes_to_the_same_bytes(name: str) -> None:
    frame = golden_frame(name)
    assert int.from_bytes(frame[:4], "big") == len(frame) - 4
    message = decode(frame[4:], ToEngine | FromEngine)
    assert message == BY_TAG[name]
    assert encode(message) == frame[4:]
    assert encode(changed(message)) != frame[4:]


def test_every_message_has_a_golden_frame() -> None:
    kinds = set((ToEngine | Event | Reply).__args__) | {type(BY_TAG["hello"])}
    assert {type(sample) for sample in SAMPLES} == kinds
    assert len(SAMPLES) == len(kinds)


@pytest.mark.parametrize("name", generated_parts())
def test_the_generated_parts_are_fresh(name: str) -> None:
    part = marked_part(name, TEXT)
    assert part is not None
    assert part.group(1) == generated_parts()[name], f"run python {document.__file__}"


def test_the_failure_codes_are_those_of_the_code() -> None:
    failed = TEXT.split("### failed")[1].split("## Events")[0]
    assert re.findall(r"^\| `([a-z-]+)` \| [a-z]", failed, re.MULTILINE)[-len(FAILURE_CODES) :] == list(FAILURE_CODES)
