"""Only valid messages pass; packed arrays keep their order and their bounds."""

from array import array
from typing import Any

import msgpack
import pytest
from enginebench_protocol.codec import decode, encode, pack_ids, pack_times, unpack_ids, unpack_times
from enginebench_protocol.errors import MessageError
from enginebench_protocol.messages import (
    CONTROL_FRAME_BYTES,
    DATA_FRAME_BYTES,
    MAX_TOKENS,
    Done,
    FromEngine,
    Generate,
    Generated,
    Message,
    Progress,
    Request,
    ToEngine,
)
from samples import SAMPLES

GENERATE: dict[str, Any] = {"type": "generate", "id": 1, "prompt": pack_ids([5]), "n_gen": 2}
PROGRESS: dict[str, Any] = {"type": "progress", "id": 1, "stage": "read", "fraction": 0.5}


@pytest.mark.parametrize("message", SAMPLES, ids=lambda m: type(m).__name__.lower())
def test_every_message_survives_the_wire(message: Message) -> None:
    assert decode(encode(message), ToEngine | FromEngine) == message


def test_the_order_of_keys_does_not_matter() -> None:
    turned = dict(reversed(GENERATE.items()))
    assert next(iter(turned)) == "n_gen"
    assert decode(msgpack.packb(turned), Request) == decode(msgpack.packb(GENERATE), Request)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"surprise": 1}, "unknown field `surprise`"),
        ({"n_gen": None}, "Expected `int`, got `null`"),
        ({"n_gen": 0}, r">= 1.*n_gen"),
        ({"n_gen": MAX_TOKENS + 1}, r"<= 262144.*n_gen"),
        ({"n_gen": True}, "got `bool`"),
        ({"n_gen": 1.0}, "got `float`"),
        ({"n_gen": "1"}, "got `str`"),
        ({"prompt": "AAAA"}, r"Expected `bytes`, got `str`"),
        ({"prompt": bytes(4 * MAX_TOKENS + 4)}, r"<= 1048576.*prompt"),
        ({"prompt": [1, 2]}, "got `array`"),
        ({"id": -1}, r">= 0.*id"),
        ({"id": 2**63}, r"<= 2147483648.*id"),
        ({"type": "reboot"}, "reboot"),
        ({"type": 7}, "type"),
        ({"type": "done"}, "done"),
    ],
)
def test_a_wrong_field_is_named(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(MessageError, match=complaint):
        decode(msgpack.packb(GENERATE | changes), Request)


@pytest.mark.parametrize("field", GENERATE)
def test_a_missing_field_is_named(field: str) -> None:
    rest = {name: value for name, value in GENERATE.items() if name != field}
    with pytest.raises(MessageError, match=f"missing required field `{field}`"):
        decode(msgpack.packb(rest), Request)


@pytest.mark.parametrize("fraction", [float("nan"), float("inf"), -float("inf"), 1.0001, -0.0001])
def test_a_fraction_is_finite_and_within_its_bounds(fraction: float) -> None:
    with pytest.raises(MessageError, match="fraction"):
        decode(msgpack.packb(PROGRESS | {"fraction": fraction}), FromEngine)


def test_an_integer_may_stand_for_a_float() -> None:
    assert decode(msgpack.packb(PROGRESS | {"fraction": 1}), FromEngine) == Progress(id=1, stage="read", fraction=1.0)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        msgpack.packb(5),
        msgpack.packb(None),
        msgpack.packb([GENERATE]),
        msgpack.packb({**GENERATE, 5: 5}),
        msgpack.packb({name.encode(): value for name, value in GENERATE.items()}),
        msgpack.packb(GENERATE) + b"\x00",
        msgpack.packb(GENERATE)[:-1],
        msgpack.packb({"type": "done", "id": msgpack.Timestamp(1)}),
        msgpack.packb({"type": "done", "id": msgpack.ExtType(5, b"")}),
        b"\x82\xa4type\xa4done\xa2id\xa1\xff",
        b"\x91" * 100_000,
        b"\x81\xa1a" * 100_000,
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x05",
        msgpack.packb({"type": "done", "id": list(range(2000))}),
    ],
    ids=[
        "empty",
        "reserved-byte",
        "integer",
        "nil",
        "array",
        "integer-key",
        "binary-keys",
        "trailing-byte",
        "cut-short",
        "timestamp",
        "extension",
        "bad-utf8",
        "deep-arrays",
        "deep-maps",
        "huge-array",
        "huge-map",
        "huge-string",
        "huge-binary",
        "huge-extension",
        "long-array",
    ],
)
def test_what_is_no_message_is_refused(payload: bytes) -> None:
    with pytest.raises(MessageError):
        decode(payload, Request | FromEngine)


def test_the_longest_generation_fits_into_a_data_frame() -> None:
    generated = Generated(
        id=1,
        n_prompt=1,
        prompt_sha256="0" * 64,
        tokens=pack_ids([2**31 - 1] * MAX_TOKENS),
        t_start_ns=0,
        t_token_ns=pack_times([2**62] * MAX_TOKENS),
    )
    assert CONTROL_FRAME_BYTES < len(encode(generated)) <= DATA_FRAME_BYTES
    assert len(encode(Generate(id=1, prompt=generated.tokens, n_gen=1))) <= DATA_FRAME_BYTES


def test_packed_ids_are_little_endian_32_bit() -> None:
    assert pack_ids([1, 256, 2**31 - 1]) == bytes.fromhex("01000000 00010000 ffffff7f")
    assert unpack_ids(bytes.fromhex("01000000 00010000")) == array("i", [1, 256])
    assert unpack_ids(b"") == array("i")


def test_packed_times_are_little_endian_64_bit() -> None:
    assert pack_times([1, 2**40]) == bytes.fromhex("0100000000000000 0000000000010000")
    assert unpack_times(pack_times([7, 7, 8])) == array("q", [7, 7, 8])


@pytest.mark.parametrize("packed", [b"\x00" * 3, b"\x00" * 5, bytes(4 * MAX_TOKENS + 4)])
def test_torn_or_overlong_ids_are_refused(packed: bytes) -> None:
    with pytest.raises(MessageError, match="packed array"):
        unpack_ids(packed)


def test_a_negative_id_is_refused() -> None:
    with pytest.raises(MessageError, match="negative token id -3"):
        unpack_ids(array("i", [1, -3, 2]).tobytes())


def test_times_that_run_backwards_are_refused() -> None:
    with pytest.raises(MessageError, match="backwards"):
        unpack_times(pack_times([5, 4]))


@pytest.mark.parametrize("packed", [b"\x00" * 7, bytes(8 * MAX_TOKENS + 8)])
def test_torn_or_overlong_times_are_refused(packed: bytes) -> None:
    with pytest.raises(MessageError, match="packed array"):
        unpack_times(packed)


def test_ids_beyond_32_bits_cannot_be_packed() -> None:
    with pytest.raises(OverflowError):
        pack_ids([2**31])


def test_a_done_of_another_version_is_refused() -> None:
    assert decode(msgpack.packb({"type": "done", "id": 1}), FromEngine) == Done(id=1)
    with pytest.raises(MessageError, match="unknown field `took_ns`"):
        decode(msgpack.packb({"type": "done", "id": 1, "took_ns": 3}), FromEngine)
