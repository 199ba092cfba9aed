"""Structure-aware damage: a sound file of the tests with one to three things changed, by a seeded dice.

Half of the damage is to what a file means (another type, count, offset, name), written out as a whole file again; the
other half to its bytes (a length, a bit, a cut, a splice).
"""

import json
import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from enginebench_models.gguf_check import KNOWN_KEYS, KNOWN_OF_ARCHITECTURE
from enginebench_models.gguf_header import ARRAY, SCALARS, STRING

from . import malformed_safetensors as st
from .gguf_bytes import Array, Entry, Key, every_scalar, gguf, llama_keys, llama_tensors, small_files

EDGES = [0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 31, 32, 33, 63, 64, 127, 128, 255, 256, 1000, 4095, 65_535, 65_536]
EDGES += [value + by for value in (1 << 31, 1 << 32, 1 << 50, 1 << 62, 1 << 63) for by in (-1, 0, 1)] + [(1 << 64) - 1]
NAMES = [str(key.name) for key in llama_keys()] + list(KNOWN_KEYS) + [f"llama.{name}" for name in KNOWN_OF_ARCHITECTURE]
Dice = random.Random


def damaged_gguf(dice: Dice) -> bytes:
    raw = written(dice) if dice.random() < 0.5 else dice.choice(SMALL)
    return damaged(raw, dice, dice.choice((0, 1, 1, 2)) if raw not in SMALL else dice.choice((1, 1, 2, 3)))


def damaged_safetensors(dice: Dice) -> bytes:
    if dice.random() < 0.5:
        return damaged(directory(dice), dice, dice.choice((0, 0, 1)))
    return damaged(dice.choice(SMALL_SAFE), dice, dice.choice((1, 1, 2, 3)))


def damaged(raw: bytes, dice: Dice, times: int) -> bytes:
    for _ in range(times):
        raw = dice.choice(BYTE_DAMAGE)(raw, dice) or b"\0"
    return raw


# ---- meaning ----------------------------------------------------------------------------------------------------


def written(dice: Dice) -> bytes:
    """A header with one to three fields that say something else."""
    keys, tensors = llama_keys(), llama_tensors(dice.choice((0, 1, 30)), untied=dice.random() < 0.3)
    if dice.random() < 0.3:
        keys += every_scalar()[: dice.randrange(1, 24)]
    rest: dict[str, int] = {}
    for _ in range(dice.randrange(1, 4)):
        dice.choice((edit_key, edit_key, edit_tensor, edit_tensor, edit_order, edit_counts))(keys, tensors, rest, dice)
    return gguf(keys, tensors, **rest)


def edit_key(keys: list[Key], tensors: list[Entry], rest: dict[str, int], dice: Dice) -> None:
    at = dice.randrange(len(keys))
    key = keys[at]
    changed = {
        "name": lambda: replace(key, name=dice.choice((*NAMES, b"", b"a\0", b"\xff", "x" * 300))),
        "type": lambda: replace(
            key, type=dice.choice((*SCALARS, STRING, ARRAY, 13)), value=bytes(dice.choice((1, 4, 8, 24)))
        ),
        "value": lambda: replace(key, value=other_value(key, dice)),
        "twice": lambda: keys[dice.randrange(len(keys))],
    }
    keys[at] = changed[dice.choice(list(changed))]()


def other_value(key: Key, dice: Dice) -> Any:
    if key.type in SCALARS:
        size = struct.calcsize(SCALARS[key.type])
        return (dice.choice(EDGES) & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    if key.type == STRING:
        return dice.choice(("", "llama", "gpt2", "Ω" * 20, "a" * 2000, struct.pack("<Q", dice.choice(EDGES)) + b"xy"))
    if not isinstance(key.value, Array):
        return dice.randbytes(24)
    array = key.value
    values = list(array.values)
    if values and dice.random() < 0.5:
        values[dice.randrange(len(values))] = struct.pack("<Q", dice.choice(EDGES))
    elif dice.random() < 0.5:
        values = values[: dice.randrange(len(values) + 1)]
    else:
        return replace(array, count=dice.choice(EDGES))
    return replace(array, values=tuple(values))


def edit_tensor(keys: list[Key], tensors: list[Entry], rest: dict[str, int], dice: Dice) -> None:
    at = dice.randrange(len(tensors))
    entry = replace(tensors[at], n_bytes=tensors[at].data_bytes())
    sizes = list(entry.sizes)
    sizes[dice.randrange(len(sizes))] = dice.choice(EDGES)
    near = (dice.choice(EDGES) << dice.choice((0, 5))) & ((1 << 64) - 1)
    tensors[at] = dice.choice(
        (
            replace(entry, sizes=tuple(sizes)),
            replace(entry, type=dice.choice((*range(44), (1 << 32) - 1))),
            replace(entry, offset=near),
            replace(entry, name=dice.choice((*[each.name for each in tensors], b"", b"n" * 64, "rope_freqs.weight"))),
            replace(entry, n_dims=dice.choice((0, 1, 2, 3, 4, 5, (1 << 32) - 1))),
            replace(entry, sizes=tuple(reversed(entry.sizes))),
            replace(entry, n_bytes=dice.choice((0, 1, 31, 64, 4096))),
        )
    )


def edit_order(keys: list[Key], tensors: list[Entry], rest: dict[str, int], dice: Dice) -> None:
    several: list[Any] = dice.choice((keys, tensors))
    action = dice.randrange(3)
    if action == 0:
        dice.shuffle(several)
    elif action == 1 and len(several) > 1:
        del several[dice.randrange(len(several))]
    else:
        several.append(several[dice.randrange(len(several))])


def edit_counts(keys: list[Key], tensors: list[Entry], rest: dict[str, int], dice: Dice) -> None:
    field = dice.choice(("n_keys", "n_tensors", "version", "step"))
    rest[field] = dice.choice((1, 2, 8, 16, 64, 128)) if field == "step" else dice.choice(EDGES)
    if field == "version":
        rest[field] &= (1 << 32) - 1
    if field == "step" and dice.random() < 0.7:
        keys.append(Key("general.alignment", 4, rest["step"]))


def directory(dice: Dice) -> bytes:
    """A safetensors header with one thing changed."""
    parts: dict[str, Any] = {"a": st.entry("F16", [2, 3], [0, 12]), "b": st.entry("U8", [1], [12, 13])}
    name, field = dice.choice("ab"), dice.choice(("dtype", "shape", "data_offsets"))
    values: dict[str, Sequence[Any]] = {
        "dtype": [*st_types(), None, 1, "X"],
        "shape": [
            [],
            [0],
            [1],
            [6],
            [3, 2],
            [dice.choice(EDGES)],
            [dice.choice(EDGES), dice.choice(EDGES)],
            "6",
            [1.0],
            [True],
        ],
        "data_offsets": [[0, 12], [12, 13], [dice.choice(EDGES), dice.choice(EDGES)], [13, 12], [0], [0, 12, 13], None],
    }
    parts[name][field] = dice.choice(values[field])
    if dice.random() < 0.2:
        parts["__metadata__"] = dice.choice(({}, {"a": "b"}, {"a": 1}, None, [], {"a": {"b": "c"}}))
    text = json.dumps(parts, separators=dice.choice(((",", ":"), (", ", ": ")))).encode() + b" " * dice.choice(
        (0, 0, 7)
    )
    length = len(text) + dice.choice((0, 0, 0, 0, -1, 1))
    return struct.pack("<Q", length) + text + bytes(dice.choice((13, 13, 13, 13, 12, 14, 0, 21)))


def st_types() -> list[str]:
    return ["F16", "BF16", "U8", "I8", "F32", "F64", "C64", "BOOL", "F4", "F6_E2M3", "F8_E4M3"]


# ---- bytes ------------------------------------------------------------------------------------------------------


def flip(raw: bytes, dice: Dice) -> bytes:
    at = dice.randrange(len(raw))
    return raw[:at] + bytes([raw[at] ^ 1 << dice.randrange(8)]) + raw[at + 1 :]


def number(raw: bytes, dice: Dice) -> bytes:
    """Four or eight bytes anywhere become a number at an edge."""
    size = dice.choice((4, 8))
    at = dice.randrange(len(raw))
    value = (dice.choice(EDGES) & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    return raw[:at] + value + raw[at + size :]


def cut(raw: bytes, dice: Dice) -> bytes:
    return raw[: dice.randrange(len(raw))]


def drop(raw: bytes, dice: Dice) -> bytes:
    at = dice.randrange(len(raw))
    return raw[:at] + raw[at + dice.choice((1, 4, 8, 32)) :]


def insert(raw: bytes, dice: Dice) -> bytes:
    at = dice.randrange(len(raw) + 1)
    return raw[:at] + dice.randbytes(dice.choice((1, 4, 8, 32))) + raw[at:]


def again(raw: bytes, dice: Dice) -> bytes:
    at = dice.randrange(len(raw))
    return raw[:at] + raw[at : at + dice.choice((8, 32, 64))] + raw[at:]


def splice(raw: bytes, dice: Dice) -> bytes:
    other = dice.choice(SMALL + SMALL_SAFE)
    return raw[: dice.randrange(len(raw))] + other[dice.randrange(len(other)) :]


def text(raw: bytes, dice: Dice) -> bytes:
    """In JSON: a digit, a bracket or a quote becomes another."""
    letters = b'0123456789[]{}",:-.eE \\n'
    at = dice.randrange(len(raw))
    return raw[:at] + bytes([dice.choice(letters)]) + raw[at + 1 :]


BYTE_DAMAGE: tuple[Callable[[bytes, Dice], bytes], ...] = (flip, number, number, cut, drop, insert, again, splice, text)
SMALL = list(small_files().values())
SMALL_SAFE = list(st.small_files().values())
