"""Renders one chat template, in a process of its own: `python -m enginebench_models.template_process`.

The question on stdin is JSON; the answer on stdout is a sign, + or -, and the text or the error. The other side is
chat_template.py. The template is a program of unknown origin: it runs in jinja2's immutable sandbox, after this process
has given up files, network and all but a little memory and time. No clock and no dice: the same messages give the same
prompt.
"""

import encodings.unicode_escape  # with the next three: what templates would import when files cannot be read any more
import json
import pprint
import resource
import sys
import textwrap
from collections.abc import Mapping
from typing import Any, NoReturn

import jinja2.debug
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from enginebench_models.confinement import confine

NEEDED = (encodings.unicode_escape, pprint, textwrap, jinja2.debug)
LONGEST_ERROR = 300


def main() -> int:
    question = json.loads(sys.stdin.buffer.read())
    limits = question.pop("limits")
    resource.setrlimit(resource.RLIMIT_CPU, (limits["cpu_seconds"], limits["cpu_seconds"]))
    resource.setrlimit(resource.RLIMIT_AS, (limits["memory_bytes"], limits["memory_bytes"]))
    confine(reads=False)
    sys.stdout.buffer.write(answer(question, limits["prompt_characters"]).encode("utf-8", "replace"))
    sys.stdout.buffer.flush()
    return 0


def answer(question: Mapping[str, Any], longest: int) -> str:
    try:
        text = render(**question)
    except Exception as cause:  # noqa: BLE001 - the template is a program and may raise anything
        return f"-{str(cause) or type(cause).__name__}"[:LONGEST_ERROR]
    return f"+{text}" if len(text) <= longest else f"-it makes a prompt of {len(text):,} characters"


def render(template: str, messages: list[dict[str, str]], bos: str, eos: str) -> str:
    """What transformers' apply_chat_template gives with add_generation_prompt; a template's date is its default."""
    compiled = sandbox().from_string(template)
    return compiled.render(
        messages=messages, tools=None, documents=None, bos_token=bos, eos_token=eos, add_generation_prompt=True
    )


def sandbox() -> "Sandbox":
    """As transformers.utils.chat_template_utils makes it, without what differs from one time to the next."""
    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation])
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    del environment.globals["lipsum"], environment.filters["random"]
    return environment


class Sandbox(ImmutableSandboxedEnvironment):
    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        """At once; jinja2 itself waits until something is done with what it gives."""
        raise SecurityError(f"it asks for {attribute!r} of a {type(obj).__name__}")


class Generation(Extension):
    """{% generation %}, which marks what an assistant said: it stays as it is."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's way

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("kept"), [], [], body).set_lineno(line)

    def kept(self, caller: Any) -> str:
        return str(caller())


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Without jinja2's escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def refuse(message: str) -> NoReturn:
    """`raise_exception` of Hugging Face's templates."""
    raise jinja2.TemplateError(message)


if __name__ == "__main__":
    sys.exit(main())
