"""The generated parts of docs/protocol.md: message tables and golden frames, made from the code.

`python protocol/tests/support/document.py` writes them; test_document.py fails when they are stale.
"""

import ast
import inspect
import re
from itertools import pairwise
from pathlib import Path

from enginebench_protocol import messages
from enginebench_protocol.codec import encode
from enginebench_protocol.messages import Message
from msgspec import NODEFAULT
from msgspec.inspect import (
    BoolType,
    BytesType,
    DictType,
    Field,
    FloatType,
    IntType,
    ListType,
    NoneType,
    StrType,
    Type,
    UnionType,
    type_info,
)
from samples import SAMPLES

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "protocol.md"
KINDS: tuple[type[Message], ...] = tuple(type(sample) for sample in SAMPLES)


def generated_parts() -> dict[str, str]:
    """Name of a marked part → what belongs between its marks."""
    tables = {f"message {tag(kind)}": table(kind) for kind in KINDS}
    frames = {f"frame {tag(type(sample))}": frame_text(encode(sample)) for sample in SAMPLES}
    return {**tables, **frames}


def tag(kind: type[Message]) -> str:
    return str(kind.__struct_config__.tag)


def table(kind: type[Message]) -> str:
    """A row per field: name, type on the wire, bounds, default, meaning."""
    info = type_info(kind)
    meanings = field_meanings(kind)
    lines = ["| field | type | bounds | default |", "|---|---|---|---|"]
    notes = []
    for field in info.fields:
        name, bounds = wire_type(field.type)
        lines.append(f"| `{field.name}` | {name} | {bounds} | {default(field)} |")
        if field.name in meanings:
            notes.append(f"- `{field.name}`: {meanings[field.name]}")
    return "\n".join([*lines, *([""] if notes else []), *notes])


def default(field: Field) -> str:
    if field.required:
        return ""
    value = field.default_factory() if field.default is NODEFAULT else field.default
    return "`nil`" if value is None else "no bytes" if value == b"" else f"`{value!r}`"


def field_meanings(kind: type[Message]) -> dict[str, str]:
    """The string below a field of the class body."""
    body = ast.parse(inspect.getsource(kind)).body[0].body
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


def wire_type(kind: Type) -> tuple[str, str]:  # noqa: PLR0911 - one case per type
    """What a field looks like on the wire, and its bounds."""
    match kind:
        case BoolType():
            return "bool", ""
        case IntType():
            return "int", f"{kind.ge} to {power_of_two(kind.le)}"
        case FloatType():
            return "float", f"{kind.ge:g} to {kind.le:g}, finite"
        case StrType() if kind.pattern:
            return "str", f"`{kind.pattern}`"
        case StrType():
            return "str", f"{kind.min_length or 0} to {kind.max_length} characters"
        case BytesType():
            element = 4 if kind.max_length == 4 * messages.MAX_TOKENS else 8
            packed = "packed ids" if element == 4 else "packed times"
            return packed, f"up to {kind.max_length // element} x {element} bytes"
        case DictType():
            value, bounds = wire_type(kind.value_type)
            return (
                f"map of str to {value}",
                f"up to {kind.max_length} entries; keys {wire_type(kind.key_type)[1]}, values {bounds}",
            )
        case ListType():
            value, bounds = wire_type(kind.item_type)
            return f"array of {value}", f"up to {kind.max_length} entries, each {bounds}"
        case UnionType():
            (some,) = [t for t in kind.types if not isinstance(t, NoneType)]
            value, bounds = wire_type(some)
            return f"{value} or nil", bounds
    raise TypeError(f"no wire type for {kind}")


def power_of_two(value: int) -> str:
    for offset, sign in ((0, ""), (1, " - 1")):
        if (value + offset).bit_count() == 1 and value > 1:
            return f"2^{(value + offset).bit_length() - 1}{sign}"
    return str(value)


def frame_text(payload: bytes) -> str:
    whole = (len(payload).to_bytes(4, "big") + payload).hex(" ", -4)
    lines = [whole[i : i + 108].strip() for i in range(0, len(whole), 108)]
    return "```\n" + "\n".join(lines) + "\n```"


def marked_part(name: str, text: str) -> re.Match[str] | None:
    mark = re.escape(name)
    return re.search(rf"<!-- {mark} -->\n(.*?)\n<!-- end -->", text, re.DOTALL)


def write() -> None:
    text = DOCUMENT.read_text()
    for name, part in generated_parts().items():
        found = marked_part(name, text)
        if found is None:
            raise SystemExit(f"{DOCUMENT} has no part marked {name!r}")
        text = text[: found.start(1)] + part + text[found.end(1) :]
    DOCUMENT.write_text(text)


if __name__ == "__main__":
    write()
