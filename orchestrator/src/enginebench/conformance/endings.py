"""How an engine has to end: on bytes that are no message, and when its parent goes away."""

from __future__ import annotations

import os
import time
from abc import abstractmethod
from typing import ClassVar

from enginebench_protocol.codec import encode
from enginebench_protocol.messages import Load

from enginebench.conformance.launch import Launch, Step


class Ending(Launch):
    """Hello, then something after which the engine must not live on."""

    title: ClassVar[str]
    rule: ClassVar[str]

    def steps(self) -> list[Step]:
        return [Step(f"hello comes first ({self.title})", self.greet, vital=True), Step(self.rule, self.end)]

    @abstractmethod
    def end(self) -> None:
        """Do it, and look at the exit."""


class BadFrame(Ending):
    def end(self) -> None:
        os.write(self.child.write_fd, self.bytes_to_send())
        self.ends("76, or any but 0", lambda code: code != 0)

    @abstractmethod
    def bytes_to_send(self) -> bytes:
        """What no parent that knows the protocol would send."""


class Garbage(BadFrame):
    """A frame that is no MessagePack."""

    title = "garbage"
    rule = "a frame that is no message ends the engine with a code that is not 0"

    def bytes_to_send(self) -> bytes:
        return b"\x00\x00\x00\x07garbage"


class HugeFrame(BadFrame):
    """A length above the cap. Nothing follows: an engine that waits for the rest hangs."""

    title = "huge frame"
    rule = "a length above the cap ends the engine with a code that is not 0"

    def bytes_to_send(self) -> bytes:
        return b"\xff\xff\xff\xff"


class UnknownMessage(BadFrame):
    """Well-formed, but of no type that an engine is sent."""

    title = "unknown message"
    rule = "an unknown message ends the engine with a code that is not 0"

    def bytes_to_send(self) -> bytes:
        payload = encode(self.hello)
        return len(payload).to_bytes(4, "big") + payload


class EndOfFile(Ending):
    """The parent goes away while the engine waits."""

    title = "end of file"
    rule = "an end of file ends an idle engine with exit code 75"

    def end(self) -> None:
        self.close_requests()
        self.ends("75", lambda code: code == 75)


class EndOfFileWhileLoading(Ending):
    """The parent goes away while the engine works."""

    title = "end of file while loading"
    rule = "an end of file ends a loading engine within 5 s"

    def end(self) -> None:
        self.client.stream.send(encode(Load(id=1, **self.load_fields())))
        time.sleep(0.05)
        self.close_requests()
        self.ends("any", lambda code: True)


ENDINGS: tuple[type[Ending], ...] = (Garbage, HugeFrame, UnknownMessage, EndOfFile, EndOfFileWhileLoading)
