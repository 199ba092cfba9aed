"""An engine that goes wrong on purpose: `child.py FOLDER MARK STATE FAULT NONCE`, at one place.

Until then it answers every verb as an engine does. It speaks in frames of its own making, with nothing of the product,
and has none of the safety belts of a real engine: it does not end when its parent does. FOLDER holds msgpack, MARK
is what all processes of one harness are known by. The
faults are in misdeeds.py; what must come of each is in matrix.py.
"""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import struct
import sys
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), sys.argv[1]]

import msgpack  # noqa: E402
from misdeeds import ACTS, CHANGES, DeviceOutOfMemory  # noqa: E402

ENGINE, CONFIGURATION, VOCABULARY = "faulty", "default", 512
SAFETY_SECONDS = 120
"""Whatever happens to the harness, no child of ours lives longer."""

Message = dict[str, Any]


class Child:
    """`at(state)` is called at every place of the dialogue: at one of them the fault happens, once."""

    def __init__(self, mark: str, state: str, fault: str, nonce: str) -> None:
        self.mark, self.state, self.nonce = mark, state, nonce
        self.act, self.change = ACTS.get(fault), CHANGES.get(fault)
        self.read_fd, self.write_fd = 0, 1
        self.request: Message = {}
        self.prompts: list[bytes] = []

    def live(self) -> None:
        self.at("spawn")
        self.claim_stdio()
        self.at("import")
        self.say("hello", self.hello())
        self.at("ready")
        while self.request.get("type") != "shutdown":
            self.answer(self.receive())
        self.at("farewell")

    def at(self, *states: str) -> None:
        if self.act is not None and self.state in states:
            self.state = ""
            self.act(self)

    def claim_stdio(self) -> None:
        """As a real engine does it: prints go to stderr from here on."""
        self.read_fd, self.write_fd = os.dup(0), os.dup(1)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        os.dup2(2, 1)

    # ---- the verbs --------------------------------------------------------------------------------------------------

    def answer(self, request: Message) -> None:
        self.request, verb = request, request["type"]
        try:
            message = getattr(self, verb)()
        except (MemoryError, DeviceOutOfMemory) as error:
            message = {"type": "failed", "code": "out-of-memory", "message": f"{error.args[0]}: asked for 1 GiB"}
        place = self.place_of_generate if verb == "generate" else verb
        self.say(place, {"id": request["id"], **message})
        if verb == "load":
            self.at("loaded")

    @property
    def place_of_generate(self) -> str:
        """The first request; a prompt asked again belongs to the repeat of a check launch."""
        again = self.request["prompt"] in self.prompts[:-1]
        return "repeat" if again else "request" if len(self.prompts) == 1 else ""

    def hello(self) -> Message:
        return {
            "type": "hello",
            "protocol": 1,
            "nonce": self.nonce,
            "engine": ENGINE,
            "pid": os.getpid(),
            "configurations": {CONFIGURATION: "until it does not"},
            "versions": {},
        }

    def load(self) -> Message:
        self.at("load")
        self.say("progress", {"type": "progress", "id": self.request["id"], "stage": "read", "fraction": 0.5})
        self.at("progress")
        names = ("precision", "weight_dtype", "activation_dtype", "kv_dtype")
        sizes = ("weights_bytes", "kv_cache_bytes", "read_bytes_per_token")
        return {
            "type": "loaded",
            "weights_fingerprint": "0" * 64,
            **dict.fromkeys(names, "none"),
            **{name: self.request[name] for name in ("device", "threads", "n_ctx")},
            "vocab_size": VOCABULARY,
            **dict.fromkeys(sizes, 0),
            "stages": {},
            "versions": {},
        }

    def generate(self) -> Message:
        prompt, n_gen = self.request["prompt"], self.request["n_gen"]
        self.prompts.append(prompt)
        start_ns, times = time.perf_counter_ns(), []
        if self.place_of_generate == "repeat":
            self.at("repeat")
        elif len(self.prompts) == 1:
            self.at("prefill", "energy")
        for index in range(n_gen):
            if index == n_gen // 2 and len(self.prompts) == 1:
                self.at("decode")
            times.append(time.perf_counter_ns())
        return {
            "type": "generated",
            "n_prompt": len(prompt) // 4,
            "prompt_sha256": hashlib.sha256(prompt).hexdigest(),
            "tokens": struct.pack(f"<{n_gen}i", *range(n_gen)),
            "t_start_ns": start_ns,
            "t_token_ns": struct.pack(f"<{n_gen}q", *times),
        }

    def memory(self) -> Message:
        self.at("memory")
        return {"type": "account", "weights_bytes": 0, "kv_cache_bytes": 0}

    def score(self) -> Message:
        self.at("score")
        path = Path("logits.npy")
        path.write_bytes(b"no numbers")
        return {"type": "scored", "path": str(path.resolve()), "sha256": "0" * 64, "n_rows": 1}

    def profile(self) -> Message:
        self.at("profile")
        path = Path("trace.json")
        path.write_text("{}")
        return {"type": "profiled", "files": {path.name: str(path.resolve())}}

    def unload(self) -> Message:
        self.at("unload")
        return {"type": "done"}

    def shutdown(self) -> Message:
        self.at("shutdown")
        return {"type": "done"}

    # ---- the wire ---------------------------------------------------------------------------------------------------

    def receive(self) -> Message:
        (length,) = struct.unpack(">I", self.read(4))
        message: Message = msgpack.unpackb(self.read(length))
        return message

    def read(self, n: int) -> bytes:
        data = b""
        while len(data) < n:
            chunk = os.read(self.read_fd, n - len(data))
            if not chunk:
                os._exit(0)
            data += chunk
        return data

    def say(self, place: str, message: Message) -> None:
        """Send it, changed if this is the place of a fault that changes what is said."""
        messages = [message]
        if self.change is not None and self.state in (("decode", "energy") if place == "request" else (place,)):
            self.state, messages = "", self.change(message)
        for each in messages:
            self.send(framed(msgpack.packb(each)), place)

    def send(self, frame: bytes, place: str = "") -> None:
        if place == "request" and self.state == "half":
            half = len(frame) // 2
            self.write(frame[:half])
            frame = frame[half:]
            self.at("half")
        self.write(frame)

    def write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self.write_fd, data) :]


def framed(payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + payload


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(SAFETY_SECONDS)
    Child(*sys.argv[2:]).live()


if __name__ == "__main__":
    main()
