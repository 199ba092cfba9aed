"""The parent's side of template_process.py: a chat template rendered by a process that may hang, swell or die.

Whatever becomes of that process is a text, or InvalidModel.
"""

import json
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from enginebench_models.errors import InvalidModel
from enginebench_models.validation import environment


@dataclass(frozen=True)
class Limits:
    """The longest template of a published model has some 20 KiB and takes a hundredth of a second."""

    template_characters: int = 256 << 10
    prompt_characters: int = 4 << 20
    cpu_seconds: int = 5
    """Python's own tenth of a second among them; what a busy host takes from a virtual machine may count too."""
    wall_seconds: float = 15.0
    memory_bytes: int = 512 << 20
    """Of addresses, Python's own 60 MiB among them."""


LIMITS = Limits()
LONGEST_ERROR = 300


def rendered(template: str, messages: Sequence[Mapping[str, str]], bos: str, eos: str, limits: Limits = LIMITS) -> str:
    """The prompt text. Raises InvalidModel."""
    if len(template) > limits.template_characters:
        raise failed(f"it has {len(template):,} characters, at most {limits.template_characters:,} are read")
    told = {"template": template, "messages": [dict(message) for message in messages], "bos": bos, "eos": eos}
    answer = asked(json.dumps({**told, "limits": asdict(limits)}).encode(), limits)
    sign, text = answer[:1], answer[1:].decode("utf-8", "replace")
    if sign == b"-":
        raise failed(text)
    if sign != b"+" or len(text) > limits.prompt_characters:
        raise failed("its process gave no answer")
    return text


def asked(question: bytes, limits: Limits) -> bytes:
    """What the process says; no more of it is read than a prompt can be."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "enginebench_models.template_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(),
        start_new_session=True,  # a Ctrl-C of the terminal is for the chat, not for this
    )
    assert process.stdin and process.stdout
    overdue = threading.Timer(limits.wall_seconds, process.kill)
    overdue.start()
    try:
        with process.stdin as stdin:
            stdin.write(question)
        answer = process.stdout.read(4 * limits.prompt_characters + 1024)  # a character takes 4 bytes at most
    except BrokenPipeError:
        answer = b""
    finally:
        overdue.cancel()
        process.kill()
        code = process.wait()
        process.stdout.close()
    if not answer:
        raise failed(f"it takes more than {limits.cpu_seconds} s or {limits.memory_bytes >> 20} MiB ({-code})")
    return answer


def failed(why: str) -> InvalidModel:
    """`why` may be the template's own words."""
    words = "".join(c if c.isprintable() else "?" for c in why[:LONGEST_ERROR])
    return InvalidModel(f"The model's chat template failed: {words}. Use a plain prompt.")
