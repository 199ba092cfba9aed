"""Every message of protocol version 1, on one screen. Byte layout: docs/protocol.md.

One request is outstanding at a time. It is answered by any number of events and exactly one terminal reply: the
result named beside the request below, or `Failed`. Only a `Cancel` may come while a request runs. Token ids are
packed little-endian int32, times little-endian int64 nanoseconds of CLOCK_MONOTONIC (`time.perf_counter_ns` in Python
on Linux).
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

PROTOCOL_VERSION = 1
CONTROL_FRAME_BYTES = 64 * 1024
DATA_FRAME_BYTES = 4 * 1024 * 1024
MAX_TOKENS = 262_144
HOTTEST = 10.0
FAILURE_CODES = ("unsupported", "out-of-memory", "bad-model", "compile", "bad-request", "internal")

Id = Annotated[int, Meta(ge=0, le=2**31)]
Count = Annotated[int, Meta(ge=0, le=2**62)]
Positive = Annotated[int, Meta(ge=1, le=2**31)]
TokenCount = Annotated[int, Meta(ge=1, le=MAX_TOKENS)]
Name = Annotated[str, Meta(min_length=1, max_length=128)]
Text = Annotated[str, Meta(max_length=4096)]
LongText = Annotated[str, Meta(max_length=32_768)]
Path = Annotated[str, Meta(min_length=1, max_length=4096)]
Names = Annotated[dict[Name, Text], Meta(max_length=256)]
PackedIds = Annotated[bytes, Meta(max_length=4 * MAX_TOKENS)]
PackedTimes = Annotated[bytes, Meta(max_length=8 * MAX_TOKENS)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """Base of all messages. A field added later has a default; a field never changes its type or meaning."""


# ---- parent → engine ------------------------------------------------------------------------------------------


class Load(Message, frozen=True, kw_only=True, tag="load"):
    """→ Loaded. Read the weights and be ready for requests of up to `n_ctx` positions."""

    id: Id
    configuration: Name
    model_path: Path
    n_ctx: Positive
    device: Name
    threads: Positive
    cache: Path
    """A folder for compiled kernels; kept between launches."""
    scratch: Path
    """A folder of this launch; removed afterwards."""
    options: Names = {}
    """Settings that only this engine has, by the names that it knows (Engine.options)."""
    shards: Positive = 1
    """So many devices (or ranks) share the model."""


class Generate(Message, frozen=True, kw_only=True, tag="generate"):
    """→ Generated. Decode exactly `n_gen` tokens from an empty KV cache, fewer only after a `stop` id or a Cancel.

    End-of-sequence is not special: whoever wants to stop there names its id in `stop`.
    """

    id: Id
    prompt: PackedIds
    n_gen: TokenCount
    stream: bool = False
    """Send a Token event for each token, and heed a Cancel. Never used in a timed request."""
    temperature: Annotated[float, Meta(ge=0.0, le=HOTTEST)] = 0.0
    """0: greedy. Otherwise ids are drawn from the softmax of logits / temperature. Timed requests are greedy."""
    seed: Count = 0
    """Of the drawing: the same request to the same engine draws the same ids."""
    stop: PackedIds = b""
    """The generation ends after the first of these ids, which is then the last token of the reply."""


class Cancel(Message, frozen=True, kw_only=True, tag="cancel"):
    """No reply of its own: the streaming Generate of this `id` ends after its next token, with what it has so far."""

    id: Id


class Score(Message, frozen=True, kw_only=True, tag="score"):
    """→ Scored. Teacher-forced logits: prefill `n_prefill` tokens, then decode the given rest one by one."""

    id: Id
    tokens: PackedIds
    n_prefill: TokenCount


class Profile(Message, frozen=True, kw_only=True, tag="profile"):
    """→ Profiled. Generate greedily under the engine's own profiler; nothing of it is timed for a result."""

    id: Id
    prompt: PackedIds
    n_gen: TokenCount


class Memory(Message, frozen=True, kw_only=True, tag="memory"):
    """→ Account. The engine's own account of what it holds."""

    id: Id


class Unload(Message, frozen=True, kw_only=True, tag="unload"):
    """→ Done. Free the weights and the cache."""

    id: Id


class Shutdown(Message, frozen=True, kw_only=True, tag="shutdown"):
    """→ Done, then the process exits with code 0."""

    id: Id


# ---- engine → parent ------------------------------------------------------------------------------------------


class Hello(Message, frozen=True, kw_only=True, tag="hello"):
    """The first frame, sent unasked."""

    protocol: Positive
    nonce: Annotated[str, Meta(max_length=64)]
    engine: Name
    pid: Positive
    configurations: Names
    versions: Names
    t_begin_ns: Count = 0
    """When the process ran its own first line, before it imported anything of the engine; 0: not told."""


class Loaded(Message, frozen=True, kw_only=True, tag="loaded"):
    """What was really loaded: names of dtypes are read off the tensors in use, not off the request."""

    id: Id
    weights_fingerprint: Sha256
    precision: Name
    """The class the fidelity gate applies: "float32", "16-bit", …"""
    weight_dtype: Name
    activation_dtype: Name
    kv_dtype: Name
    device: Name
    threads: Positive
    n_ctx: Positive
    vocab_size: Positive
    weights_bytes: Count
    kv_cache_bytes: Count
    read_bytes_per_token: Count
    """Weight bytes that decoding one token must read, in the dtype in use (the numerator of MBU)."""
    stages: Annotated[dict[Name, Count], Meta(max_length=32)]
    """Nanoseconds by stage: a subset of import, read, convert, compile."""
    versions: Names
    top_logprobs: Count = 0
    """So many log-probabilities are all that Score tells of a row, NaN for the other ids; 0: all logits."""
    shared_server: bool = False
    """The work is done by a server that ran before: others may use it too, and its memory is not the engine's."""
    shards: Positive = 1
    """So many devices (or ranks) hold a part of the model."""
    device_bytes: Annotated[list[Count], Meta(max_length=1024)] = []
    """Weights and cache held by each device or rank, in order; empty: one device."""
    weights_path: Text = ""
    """A file of weights that the engine made from the model (quantised) and computes with; empty: the model file."""


class Generated(Message, frozen=True, kw_only=True, tag="generated"):
    """Raw facts of one request; every metric is derived from them (timing.py)."""

    id: Id
    n_prompt: TokenCount
    prompt_sha256: Sha256
    tokens: PackedIds
    t_start_ns: Count
    t_token_ns: PackedTimes
    reported: Annotated[dict[Name, Count], Meta(max_length=32)] = {}
    """By the clock of a server inside the engine, if it has one: n_prompt, n_gen, prefill_ns, decode_ns, n_requests."""


class Scored(Message, frozen=True, kw_only=True, tag="scored"):
    """`path`: a .npy file in the scratch folder, float32 [n_rows, vocab]; row 0 follows the prefill.

    With `top_logprobs` in Loaded, a row holds so many log-probabilities, of its likeliest ids, and NaN elsewhere.
    """

    id: Id
    path: Path
    sha256: Sha256
    n_rows: Positive


class Profiled(Message, frozen=True, kw_only=True, tag="profiled"):
    """What the profiler wrote: name → file in the scratch folder, `trace.json` for instance."""

    id: Id
    files: Annotated[dict[Name, Path], Meta(max_length=256)]


class Account(Message, frozen=True, kw_only=True, tag="account"):
    """Bytes the engine knows it holds; None where it cannot know."""

    id: Id
    weights_bytes: Count
    kv_cache_bytes: Count
    workspace_bytes: Count | None = None
    device_peak_bytes: Count | None = None


class Done(Message, frozen=True, kw_only=True, tag="done"):
    """The request has no result to report."""

    id: Id


class Failed(Message, frozen=True, kw_only=True, tag="failed"):
    """The request could not be done; the engine is still alive."""

    id: Id
    code: Name
    message: Text
    hint: Text = ""
    detail: LongText = ""


class Progress(Message, frozen=True, kw_only=True, tag="progress"):
    """An event while a Load runs; `fraction` of the stage, 0 to 1."""

    id: Id
    stage: Name
    fraction: Annotated[float, Meta(ge=0.0, le=1.0)]


class Token(Message, frozen=True, kw_only=True, tag="token"):
    """An event while a streaming Generate runs."""

    id: Id
    index: Count
    token: Annotated[int, Meta(ge=0, le=2**31 - 1)]


Request = Load | Generate | Score | Profile | Memory | Unload | Shutdown
ToEngine = Request | Cancel
Event = Progress | Token
Reply = Loaded | Generated | Scored | Profiled | Account | Done | Failed
FromEngine = Hello | Event | Reply
