"""Messages to bytes and back: msgpack carries the bytes, msgspec turns them into typed, bounded messages."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, TypeVar

import msgpack
import msgspec

from .errors import MessageError
from .messages import DATA_FRAME_BYTES, MAX_TOKENS, Message

M = TypeVar("M")

# Every limit is set: msgpack's own defaults allow one frame to claim gigabytes.
_LIMITS: dict[str, Any] = {
    "raw": False,
    "strict_map_key": True,
    "max_str_len": 64 * 1024,
    "max_bin_len": DATA_FRAME_BYTES,
    "max_array_len": 1024,
    "max_map_len": 1024,
    "max_ext_len": 0,
}


def encode(message: Message) -> bytes:
    payload: bytes = msgpack.packb(msgspec.to_builtins(message, builtin_types=(bytes,)), use_bin_type=True)
    return payload


def decode(payload: bytes, kind: Any) -> Any:
    """`kind` is a message class or a union of them. Raises MessageError with the offending field."""
    try:
        # Without builtin_types msgspec would take a string for bytes, as base64.
        return msgspec.convert(msgpack.unpackb(payload, **_LIMITS), kind, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise MessageError(f"invalid message: {error}") from None
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise MessageError(f"not a message: {type(error).__name__}: {error}") from None


def pack_ids(ids: Iterable[int]) -> bytes:
    """Little-endian int32."""
    return _little_endian(array("i", ids)).tobytes()


def unpack_ids(packed: bytes) -> array[int]:
    """Raises MessageError on a torn, over-long or negative id list."""
    ids = _unpack(packed, "i")
    if any(i < 0 for i in ids):
        raise MessageError(f"negative token id {min(ids)}")
    return ids


def pack_times(times_ns: Iterable[int]) -> bytes:
    """Little-endian int64 nanoseconds."""
    return _little_endian(array("q", times_ns)).tobytes()


def unpack_times(packed: bytes) -> array[int]:
    """Raises MessageError on torn data or times that run backwards."""
    times = _unpack(packed, "q")
    if any(later < earlier for earlier, later in pairwise(times)):
        raise MessageError("token times run backwards")
    return times


def _unpack(packed: bytes, typecode: str) -> array[int]:
    values: array[int] = array(typecode)
    if len(packed) % values.itemsize or len(packed) > MAX_TOKENS * values.itemsize:
        raise MessageError(f"packed array of {len(packed)} bytes: not a multiple of {values.itemsize}, or too long")
    values.frombytes(packed)
    return _little_endian(values)


def _little_endian(values: array[int]) -> array[int]:
    if sys.byteorder == "big":
        values.byteswap()
    return values
