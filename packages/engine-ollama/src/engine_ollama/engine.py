"""Ollama behind the engine interface. The only module that knows messages.

The server is ours from load to unload, if the user names none. A request of ours is one request to it; whatever it
says of itself is held against what was sent and received.
"""

from __future__ import annotations

import shutil
import sys
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from enginebench_models.checkpoint import Checkpoint, open_checkpoint
from enginebench_models.errors import ModelError, NoRoom
from enginebench_protocol.engine import (
    GREEDY,
    Engine,
    Logits,
    MemoryAccount,
    ProgressSink,
    Sampling,
    check_tokens,
    failing,
    must_be_loaded,
    stage,
)
from enginebench_protocol.errors import EngineFailure
from enginebench_protocol.messages import Load, Loaded

if TYPE_CHECKING:
    import ollama

    from .account import Account
    from .client import Client
    from .importing import Made
    from .server import Server
    from .shared_server import SharedServer

PROGRAM = "ollama"
QUANTISED = ("q8_0", "q4_k_m")
"""All that `create` makes but q4_k_s (server/quantization.go)."""
SILENCE_SECONDS = 600.0
"""The longest wait for a byte of the server: a long prompt, or a large model's load, takes minutes on a CPU."""


class OllamaEngine(Engine):
    """An `ollama serve` of its own, or one that the user names."""

    name = "ollama"
    configurations: ClassVar[Mapping[str, str]] = {
        "default": "as Ollama comes, greedy",
        "tuned": "default with flash attention and every layer on the device",
        "q8_0": "default with weights that the server quantises to Q8_0 first",
        "q4_k_m": "default with weights that the server quantises to Q4_K_M first",
    }

    options: ClassVar[Mapping[str, str]] = {"host": "HOST:PORT of an Ollama server that runs already"}

    def __init__(self, silence_seconds: float = SILENCE_SECONDS) -> None:
        self._silence_seconds = silence_seconds
        self._server: Server | SharedServer | None = None
        self._http: ollama.Client | None = None
        self._client: Client | None = None
        self._account: Account | None = None
        self._n_ctx = self._vocab_size = 0

    def load(self, request: Load, progress: ProgressSink) -> Loaded:
        self.unload()
        stages: dict[str, int] = {}
        checkpoint = opened(request)
        try:
            with self._failures(), stage(stages, "import"):
                self._server = server_for(request)
            with self._failures(refused="bad-model"), stage(stages, "convert"):
                made = self._import(checkpoint, request, progress)
            if made is not None and not made.new:
                del stages["convert"]
            with self._failures(refused="bad-model"), stage(stages, "read"), failing(ModelError):
                self._preload(open_checkpoint(made.file) if made else checkpoint, request)
        except BaseException:
            self.unload()
            raise
        return self._report(request, checkpoint, stages, made.file if made else None)

    def generate(self, prompt: array[int], n_gen: int, sampling: Sampling = GREEDY) -> Iterator[int]:
        client = self._ready(prompt, len(prompt) + n_gen)
        with self._failures():
            client.forget(prompt)
            yield from client.tokens(prompt, n_gen, sampling)

    def score(self, tokens: array[int], n_prefill: int) -> Logits:
        """What Ollama tells of the logits: log-probabilities of the likeliest ids; NaN for the others.

        Each row is a request whose prompt is one id longer. The server holds the rest, so it decodes that id alone.
        """
        import numpy as np

        client = self._ready(tokens, len(tokens))
        rows = np.full((len(tokens) - n_prefill + 1, self._vocab_size), np.nan, np.float32)
        with self._failures():
            client.forget(tokens)
            for row, length in enumerate(range(n_prefill, len(tokens) + 1)):
                for token, logprob in client.most_likely(tokens[:length]):
                    rows[row, token] = logprob
        return rows.data

    def memory(self) -> MemoryAccount:
        held = must_be_loaded(self._account)
        return MemoryAccount(held.weights_bytes, held.kv_cache_bytes, workspace_bytes=held.workspace_bytes)

    def unload(self) -> None:
        if self._client is not None and self._is_shared:
            self._client.release()
        if self._http is not None:
            self._http.close()
        if self._server is not None:
            self._server.close()
        self._server = self._http = self._client = self._account = None

    def reported(self) -> Mapping[str, int]:
        """The server's own counts and nanoseconds of the last request."""
        return {} if self._client is None else self._client.reported()

    @property
    def _is_shared(self) -> bool:
        from .shared_server import SharedServer

        return isinstance(self._server, SharedServer)

    def _import(self, checkpoint: Checkpoint, request: Load, progress: ProgressSink) -> Made | None:
        """What the server made of the weights, where it was asked to."""
        import ollama

        from .client import Client
        from .importing import imported, quantised
        from .words import Words

        assert self._server is not None
        words = Words(checkpoint.config.vocab_size)
        self._http = ollama.Client(host=self._server.address, timeout=self._silence_seconds)

        def told(done: float) -> None:
            progress("convert", done)

        model, made = imported(self._http, self._server, checkpoint, words, told), None
        if request.configuration in QUANTISED:
            made = quantised(self._http, self._server, checkpoint, request.configuration, told)
        self._client = Client(self._http, made.model if made else model, words, request_options(request))
        return made

    def _preload(self, checkpoint: Checkpoint, request: Load) -> None:
        from . import account
        from .server import Server

        assert self._server is not None and self._client is not None
        self._client.preload()
        if isinstance(self._server, Server):
            self._account = account.of(self._server.log(), checkpoint)
        else:
            self._account = account.untold(checkpoint, request, self._client.bytes_on_device())
        self._n_ctx, self._vocab_size = request.n_ctx, checkpoint.config.vocab_size
        if request.device != "cpu" and self._account.device == "CPU":
            raise EngineFailure("unsupported", f"Ollama found no device {request.device!r}", self._server.last_lines())

    def _report(self, request: Load, checkpoint: Checkpoint, stages: dict[str, int], made: Path | None) -> Loaded:
        from .client import TOP_LOGPROBS

        assert self._server is not None and self._account is not None
        held = self._account
        return Loaded(
            id=request.id,
            weights_fingerprint=checkpoint.fingerprint,
            precision=held.precision,
            weight_dtype=held.weight_dtype,
            activation_dtype=held.activation_dtype,
            kv_dtype=held.kv_dtype,
            device=held.device,
            threads=held.threads,
            n_ctx=self._n_ctx,
            vocab_size=self._vocab_size,
            weights_bytes=held.weights_bytes,
            kv_cache_bytes=held.kv_cache_bytes,
            read_bytes_per_token=held.read_bytes_per_token,
            stages=stages,
            versions={
                "python": sys.version.split()[0],
                "ollama": self._server.version,
                "ollama-python": version("ollama"),
                "flash attention": {True: "on", False: "off", None: "not told"}[held.flash_attention],
            },
            top_logprobs=TOP_LOGPROBS,
            shared_server=self._is_shared,
            weights_path=str(made or ""),
        )

    def _ready(self, tokens: array[int], n_positions: int) -> Client:
        client = must_be_loaded(self._client)
        check_tokens(tokens, n_positions, self._vocab_size, self._n_ctx)
        return client

    @contextmanager
    def _failures(self, refused: str = "internal") -> Iterator[None]:
        """What can go wrong with a server, as the failures that the protocol knows; `refused`: code of its errors."""
        import httpx
        import ollama

        from .account import NothingTold
        from .client import WrongCount
        from .server import ServerFailed
        from .words import NotAWord

        try:
            yield
        except ServerFailed as error:
            raise EngineFailure("internal", str(error), detail=error.log) from None
        except ollama.ResponseError as error:
            code = "out-of-memory" if "memory" in error.error else refused
            raise self._failed(code, f"Ollama answers: {error.error}") from None
        except (httpx.HTTPError, ConnectionError) as error:
            what = f"Ollama does not answer: {type(error).__name__}: {error}"
            raise self._failed("internal", what) from None
        except (NoRoom, OSError) as error:
            raise EngineFailure("internal", f"the model cannot be imported: {error}", "make room on the disk") from None
        except (NothingTold, WrongCount, NotAWord) as error:
            raise self._failed("internal", str(error)) from None

    def _failed(self, code: str, what: str) -> EngineFailure:
        """With the server's state and last lines."""
        if self._server is None:
            return EngineFailure(code, what)
        failed = self._server.failure(what)
        return EngineFailure(code, str(failed), detail=failed.log)


def opened(request: Load) -> Checkpoint:
    """The model, checked before Ollama sees it: it would also run architectures that are no LLaMA."""
    with failing(ModelError):
        checkpoint = open_checkpoint(Path(request.model_path))
        checkpoint.check_context(request.n_ctx)
        if request.configuration in QUANTISED:
            checkpoint.check_unquantised()
    if checkpoint.format != "gguf":
        raise EngineFailure("unsupported", f"{checkpoint.path} holds {checkpoint.format}", "give Ollama a .gguf file")
    if request.configuration in QUANTISED and "host" in request.options:
        raise EngineFailure("unsupported", "the file that a shared server quantises cannot be checked", "use its own")
    return checkpoint


def server_for(request: Load) -> Server | SharedServer:
    """One of our own, unless the user named one that runs."""
    from .server import Server
    from .shared_server import SharedServer

    if host := request.options.get("host"):
        return SharedServer(host, Path(request.cache))
    return Server(found_program(), Path(request.cache), Path(request.scratch), server_settings(request))


def found_program() -> str:
    """The absolute path: the server runs in another folder."""
    program = shutil.which(PROGRAM)
    if program is None:
        raise EngineFailure("unsupported", f"program `{PROGRAM}` not found on PATH", "install it from ollama.com")
    return str(Path(program).resolve())


def server_settings(request: Load) -> dict[str, str]:
    settings = {} if request.device != "cpu" else {"CUDA_VISIBLE_DEVICES": "-1"}
    return settings | ({"OLLAMA_FLASH_ATTENTION": "1"} if request.configuration == "tuned" else {})


def request_options(request: Load) -> dict[str, Any]:
    """Of every request: a change between two of them makes Ollama load the model again."""
    options: dict[str, Any] = {"num_ctx": request.n_ctx, "num_thread": request.threads}
    if request.device == "cpu":
        return options | {"num_gpu": 0}
    return options | ({"num_gpu": 999} if request.configuration == "tuned" else {})
