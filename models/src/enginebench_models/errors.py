"""Every way a model can be refused, as one tree.

    ModelError
    ├── ModelNotFound        no such name or path
    ├── NotAModel            the contents are no GGUF, safetensors or model directory
    ├── TruncatedModel       the file ends before its own header says it should
    ├── InvalidModel         the header contradicts itself or the file
    ├── UnsupportedModel     a sound model of a kind that is not run here
    ├── ContextExceeded      more positions asked for than the model has
    ├── ModelTypeMismatch    another architecture than the one asked for
    ├── TokenizerMissing     weights without a usable tokenizer
    ├── NoRoom               not enough disk for a model to be written
    └── DownloadFailed       the hub was not reached, refused, or sent other bytes than it should

Each message holds the value that was found and what to do about it; `rule` names the rule of rules.py that was broken.
"""

from typing import ClassVar


class ModelError(ValueError):
    """Base of all errors of this package. `code` is what an engine answers with (protocol, FAILURE_CODES)."""

    code: ClassVar[str] = "bad-model"

    def __init__(self, message: str, rule: str = "") -> None:
        super().__init__(message)
        self.rule = rule


class ModelNotFound(ModelError):
    """No catalogue entry and no file or directory of that name."""


class NotAModel(ModelError):
    """The contents are not those of a model file or directory."""


class TruncatedModel(ModelError):
    """The file is shorter than its header requires."""

    def __init__(self, path: object, expected_bytes: int, actual_bytes: int, what: str, rule: str) -> None:
        self.expected_bytes = expected_bytes
        self.actual_bytes = actual_bytes
        super().__init__(
            f"{path} is truncated: {what} needs {expected_bytes:,} bytes, the file has {actual_bytes:,}. "
            "Copy or download the file again.",
            rule,
        )


class InvalidModel(ModelError):
    """The header of a model file contradicts itself or the file."""


class UnsupportedModel(ModelError):
    """A model of an architecture, scaling rule or storage type that is not run here."""

    code = "unsupported"

    def __init__(self, message: str, rule: str = "unsupported") -> None:
        super().__init__(message, rule)


class ContextExceeded(ModelError):
    """More positions than the model was made for."""

    code = "bad-request"

    def __init__(self, n_ctx: int, max_context: int) -> None:
        super().__init__(
            f"n_ctx {n_ctx} exceeds the model's context of {max_context}. Ask for fewer prompt or generated tokens."
        )


class ModelTypeMismatch(ModelError):
    """The model is of another type than the one asked for."""

    def __init__(self, expected: str, detected: str, path: object) -> None:
        self.expected = expected
        self.detected = detected
        remedy = "Use --model-type llama or another model" if detected == "llama" else "Only LLaMA models are run here"
        super().__init__(
            f"Model type mismatch: Expected '{expected}' but detected '{detected}' in {path}. {remedy}.",
            "architecture",
        )


class NoRoom(ModelError):
    """The disk cannot hold a model that was to be written."""


class DownloadFailed(ModelError):
    """No model was downloaded. What arrived intact is kept, and the next try goes on from there."""


class TokenizerMissing(ModelError):
    """The checkpoint holds no tokenizer that can be built."""


def shown(value: object) -> str:
    """A value from a file for a message: its repr, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:119]}…"
