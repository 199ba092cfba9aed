"""What can go wrong on the wire, and what an engine says when it cannot do what it was asked.

ProtocolError
├── FrameError          a length of zero or above the cap
│   └── Truncated       the stream ended inside a frame
├── MessageError        not msgpack, an unknown message, a wrong, missing, unknown or out-of-range field
├── HandshakeError      another protocol version, nonce or engine
├── DeadlineExceeded    nothing (complete) arrived, or could be sent, in time
└── StreamClosed        the other side closed the stream between frames
EngineFailure           a well-formed answer: the engine says that it cannot, and why
"""

from __future__ import annotations


class ProtocolError(Exception):
    """The other side broke the protocol; the stream cannot be used any more."""


class FrameError(ProtocolError):
    """A frame of length zero, above the cap, or cut short."""


class Truncated(FrameError):
    """The stream ended inside a frame."""


class MessageError(ProtocolError):
    """A complete frame that is not a valid message."""


class HandshakeError(ProtocolError):
    """The hello does not belong to this launch."""


class DeadlineExceeded(ProtocolError):
    """The other side did not read or answer in time."""


class StreamClosed(ProtocolError):
    """The other side closed the stream between two frames."""


class EngineFailure(Exception):
    """The engine cannot do what it was asked.

    `code` is one of FAILURE_CODES in `messages`; `message` names the value, `hint` the remedy, `detail` is for people
    who debug the engine (a traceback).
    """

    def __init__(self, code: str, message: str, hint: str = "", detail: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message
