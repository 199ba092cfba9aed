"""Malformed safetensors files, each with the rule it breaks."""

import json
import struct
from dataclasses import dataclass
from typing import Any

U64 = 1 << 64


@dataclass(frozen=True)
class Malformed:
    name: str
    rule: str
    raw: bytes


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """`header` as bytes is taken as it is."""
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: Any = "F32", shape: Any = (4,), offsets: Any = (0, 16)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def one(dtype: Any = "F32", shape: Any = (4,), offsets: Any = (0, 16), data: int = 16) -> bytes:
    return safetensors({"a": entry(dtype, shape, offsets)}, bytes(data))


def text(header: str, data: int = 16) -> bytes:
    return safetensors(header.encode(), bytes(data))


ONE = '"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}'


def small_files() -> dict[str, bytes]:
    """Five sound files of a few hundred bytes."""
    parts = {"a": entry("F16", (2, 3), (0, 12)), "b": entry("U8", (1,), (12, 13)), "c": entry("F64", (), (13, 21))}
    odd = {"e": entry("F4", (2, 1), (0, 1)), "f": entry("C64", (1,), (1, 9)), "z": entry("I8", (0, 3), (9, 9))}
    return {
        "one": one(),
        "three": safetensors({"__metadata__": {"format": "pt"}, **parts}, bytes(21)),
        "spaces": safetensors(b"{" + ONE.encode() + b"}   ", bytes(16)),
        "odd types": safetensors(odd, bytes(9)),
        "names": safetensors(
            {"Ω": entry("BOOL", (3,), (1, 4)), '"\\': entry("BF16", (), (4, 6)), "": entry("I8", (1,), (0, 1))},
            bytes(6),
        ),
    }


def malformed() -> list[Malformed]:
    return [
        Malformed(name, rule, raw)
        for group in (starts, json_text, entries, sizes, places)
        for rule, name, raw in group()
    ]


Case = tuple[str, str, bytes]


def starts() -> list[Case]:
    lengths = {
        "16 MiB + 1": (16 << 20) + 1,
        "100,000,001": 100_000_001,
        "2^31": 1 << 31,
        "2^63": 1 << 63,
        "2^64-1": U64 - 1,
    }
    found = [("not-a-model", f"{n} bytes", bytes(n)) for n in (1, 7, 8)]
    found += [
        ("safetensors-header-too-long", f"a header of {n}", safetensors(b"{}", length=v)) for n, v in lengths.items()
    ]
    found += [
        ("safetensors-truncated", f"a header {n} bytes beyond the file", safetensors(b"{}", length=2 + n))
        for n in (1, 1000)
    ]
    firsts = {
        "a list": b"[]",
        "a space": b" {}",
        "a BOM": b"\xef\xbb\xbf{}",
        "a word": b"null",
        "a pickle": b"\x80\x04",
    }
    found += [("not-a-model", f"a header that starts with {n}", safetensors(raw)) for n, raw in firsts.items()]
    wide = {"16": "utf-16-le", "32": "utf-32-le"}
    found += [("safetensors-json", f"a header in UTF-{n}", safetensors("{}".encode(code))) for n, code in wide.items()]
    return [
        *found,
        ("safetensors-json", "a header of one byte", safetensors(b"{", length=1)),
        ("safetensors-not-utf8", "a byte that is not UTF-8", text("{" + ONE + "}").replace(b'"a"', b'"\xff"')),
        ("safetensors-not-utf8", "an overlong byte pair", safetensors(b'{"\xc0\xaf":1}')),
        ("safetensors-not-utf8", "half a character in bytes", safetensors(b'{"\xed\xa0\x80":1}')),
    ]


def json_text() -> list[Case]:
    rule = "safetensors-json"
    broken = {
        "a comma at the end": "{" + ONE + ",}",
        "no closing brace": "{" + ONE,
        "two objects": "{" + ONE + "}{}",
        "text behind the object": "{" + ONE + "} x",
        "a NUL behind the object": "{" + ONE + "}\0",
        "single quotes": "{'a':1}",
        "a comment": "{/* */}",
        "a line break in a string": '{"a\n":1}',
        "a key twice": "{" + ONE + "," + ONE + "}",
        "a field twice": '{"a":{"dtype":"F32","dtype":"F32","shape":[4],"data_offsets":[0,16]}}',
        "a key twice by escape": "{" + ONE + "," + ONE.replace('"a"', '"\\u0061"') + "}",
        "half a character as a name": "{" + ONE.replace('"a"', '"\\ud800"') + "}",
        "NaN": ONE.join("{}").replace("[4]", "[NaN]"),
        "Infinity": ONE.join("{}").replace("[4]", "[Infinity]"),
        "a fraction": ONE.join("{}").replace("[4]", "[4.0]"),
        "an exponent": ONE.join("{}").replace("[4]", "[4e0]"),
        "a negative size": ONE.join("{}").replace("[4]", "[-4]"),
        "minus zero": ONE.join("{}").replace("[0,", "[-0,"),
        "a negative offset": ONE.join("{}").replace("[0,16]", "[-16,0]"),
        "2^64": ONE.join("{}").replace("[4]", f"[{U64}]"),
        "a number of 5,000 digits": ONE.join("{}").replace("[4]", "[" + "9" * 5000 + "]"),
        "lists 100,000 deep": '{"a":' + "[" * 100_000,
        "objects 100,000 deep": '{"a":' * 100_000,
        "half a character as a remark": '{"__metadata__":{"a":"\\udfff"},' + ONE + "}",
    }
    return [(rule, name, text(header)) for name, header in broken.items()]


def entries() -> list[Case]:
    rule = "safetensors-entry"
    whole = entry()
    wrong: dict[str, Any] = {"null": None, "a number": 1, "a string": "F32", "a list": [], "empty": {}}
    found = [(rule, f"an entry that is {n}", safetensors({"a": value}, bytes(16))) for n, value in wrong.items()]
    for field in whole:
        rest = {name: value for name, value in whole.items() if name != field}
        found.append((rule, f"an entry without {field}", safetensors({"a": rest}, bytes(16))))
    found.append((rule, "an entry with a field more", safetensors({"a": whole | {"pickle": "yes"}}, bytes(16))))
    for name, value in {
        "null": None,
        "a number": 4,
        "a string": "4",
        "of strings": ["4"],
        "of lists": [[4]],
        "of bools": [True],
    }.items():
        found.append((rule, f"a shape {name}", one(shape=value)))
    for name, value in {
        "null": None,
        "one": [16],
        "three": [0, 8, 16],
        "of strings": ["0", "16"],
        "of bools": [False, True],
    }.items():
        found.append((rule, f"offsets {name}", one(offsets=value)))
    remarks: dict[str, Any] = {
        "null": None,
        "a list": [],
        "a string": "pt",
        "a number in it": {"a": 1},
        "a map in it": {"a": {}},
    }
    found += [
        ("safetensors-metadata", f"__metadata__ {n}", safetensors({"__metadata__": value, "a": whole}, bytes(16)))
        for n, value in remarks.items()
    ]
    for value in ("f32", "F33", "", "float32", "Q4_0", "F32 ", None, 32, ["F32"]):
        found.append(("safetensors-dtype", f"dtype {value!r}", one(dtype=value)))
    many = {f"t{n}": entry("I8", (0,), (0, 0)) for n in range(100_001)}
    return [*found, ("safetensors-too-many-tensors", "100,001 tensors", safetensors(many))]


def sizes() -> list[Case]:
    rule = "safetensors-size"
    return [
        (rule, "one element too few", one(shape=[3])),
        (rule, "one element too many", one(shape=[5])),
        (rule, "another dtype", one(dtype="F16")),
        (rule, "no element for 16 bytes", one(shape=[0])),
        (rule, "a scalar for 16 bytes", one(shape=[])),
        (rule, "offsets in the wrong order", one(offsets=[16, 0])),
        (rule, "an end of 2^64-1", one(offsets=[0, U64 - 1])),
        ("safetensors-bits", "one element of 4 bits", one("F4", [1], [0, 1], 1)),
        ("safetensors-bits", "three elements of 6 bits", one("F6_E2M3", [3], [0, 2], 2)),
        ("safetensors-dimensions", "nine dimensions", one(shape=[1] * 8 + [4])),
        ("safetensors-dimensions", "100,000 dimensions", one(shape=[1] * 100_000)),
        ("safetensors-too-many-elements", "2^50 + 1 elements", one("I8", [(1 << 50) + 1], [0, (1 << 50) + 1])),
        ("safetensors-too-many-elements", "2^64-1 elements", one(shape=[U64 - 1])),
        (
            "safetensors-too-many-elements",
            "2^32 squared, which wraps to 0",
            one(shape=[1 << 32, 1 << 32], offsets=[0, 0], data=0),
        ),
        (
            "safetensors-too-many-elements",
            "2^60 squared times 0",
            one(shape=[1 << 60, 1 << 60, 0], offsets=[0, 0], data=0),
        ),
    ]


def places() -> list[Case]:
    def two(first: tuple[int, int], second: tuple[int, int], data: int) -> bytes:
        shapes = ([first[1] - first[0]], [second[1] - second[0]])
        named = {
            name: entry("I8", shape, where) for name, shape, where in zip("ab", shapes, (first, second), strict=True)
        }
        return safetensors(named, bytes(data))

    return [
        ("safetensors-gap", "data that start at 4", one(offsets=[4, 20], data=20)),
        ("safetensors-gap", "a hole between two", two((0, 4), (8, 12), 12)),
        ("safetensors-gap", "a hole of one byte", two((0, 4), (5, 9), 9)),
        ("safetensors-gap", "an offset of 2^62", one("I8", [4], [1 << 62, (1 << 62) + 4], 4)),
        ("safetensors-overlap", "two at one place", two((0, 4), (0, 4), 4)),
        ("safetensors-overlap", "the second a byte early", two((0, 4), (3, 7), 7)),
        ("safetensors-overlap", "the second inside the first", two((0, 8), (2, 4), 8)),
        ("safetensors-overlap", "data of another tensor read twice", two((0, 8), (4, 12), 12)),
        ("safetensors-data-truncated", "data cut by one byte", one(data=15)),
        ("safetensors-data-truncated", "no data", one(data=0)),
        ("safetensors-data-truncated", "the second tensor missing", two((0, 4), (4, 8), 4)),
        ("safetensors-data-truncated", "2^50 bytes announced", one("I8", [1 << 50], [0, 1 << 50])),
        ("safetensors-trailing-bytes", "one byte behind the data", one(data=17)),
        ("safetensors-trailing-bytes", "a zip archive behind the data (a polyglot)", one() + b"PK\x05\x06" + bytes(18)),
        ("safetensors-trailing-bytes", "a second file behind the data", one() + one()),
        ("safetensors-trailing-bytes", "data that nobody names", safetensors({}, bytes(16))),
        ("safetensors-overlap", "an empty tensor inside another", two((0, 8), (4, 4), 8)),
    ]
