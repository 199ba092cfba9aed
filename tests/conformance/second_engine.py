"""A second implementation of the protocol, written from docs/protocol.md with nothing but msgpack.

Sixteen tokens, no weights. `--break NAME` makes it wrong in exactly one way; without it, it conforms.
Arguments: --fingerprint HEX [--break NAME] serve --nonce HEX
"""

import array
import hashlib
import math
import os
import random
import select
import struct
import sys
import threading
import time
from pathlib import Path

import msgpack

VOCABULARY = 16


def option(name):
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else ""


BREAK = option("--break")


class Failure(Exception):
    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class Engine:
    def __init__(self, read_fd, write_fd):
        self.read_fd, self.write_fd = read_fd, write_fd
        self.scratch = None
        self.n_requests = 0
        self.n_loads = self.n_ended = self.n_cancels = 0
        self.drew = False

    # ---- frames -----------------------------------------------------------------------------------------------

    def send(self, **message):
        payload = msgpack.packb(message)
        os.write(self.write_fd, struct.pack(">I", len(payload)) + payload)

    def receive(self):
        (length,) = struct.unpack(">I", self.read(4))
        if not 1 <= length <= 4 * 2**20:
            self.broken("huge-frame")
        try:
            message = msgpack.unpackb(self.read(length))
        except ValueError:
            self.broken("garbage")
        if not isinstance(message, dict) or not hasattr(self, f"on_{message.get('type')}"):
            self.broken("unknown-message" if isinstance(message, dict) else "garbage")
        return message

    def read(self, n):
        data = b""
        while len(data) < n:
            chunk = os.read(self.read_fd, n - len(data))
            if not chunk:
                if BREAK == "outlives-parent":
                    time.sleep(1000)
                os._exit(0 if BREAK == "eof-code" else 75)
            data += chunk
        return data

    def broken(self, what):
        if f"survives-{what}" == BREAK:
            time.sleep(1000)
        os._exit(76)

    # ---- life -------------------------------------------------------------------------------------------------

    def run(self):
        configurations = {"default": "the only one"}
        if BREAK == "extra-configuration":
            configurations["secret"] = "not in the table"
        self.send(
            type="hello",
            protocol=2 if BREAK == "version" else 1,
            nonce="other" if BREAK == "nonce" else option("--nonce"),
            engine="third" if BREAK == "name" else "second",
            pid=1 if BREAK == "pid" else os.getpid(),
            configurations=configurations,
            versions={},
        )
        while True:
            request = self.receive()
            if request["type"] == "cancel":
                self.late_cancel(request)
                continue
            try:
                reply = getattr(self, f"on_{request['type']}")(request)
            except Failure as failure:
                reply = {"type": "failed", "code": failure.code, "message": str(failure)}
            self.send(id=request["id"], **reply)
            if request["type"] == "shutdown":
                self.leave()

    def late_cancel(self, request):
        if BREAK == "dies-of-late-cancel":
            os._exit(76)
        if BREAK == "answers-late-cancel":
            self.send(type="done", id=request["id"])

    def on_cancel(self, request):
        """So that it is a known message."""

    def leave(self):
        if BREAK == "stays":
            time.sleep(1000)
        if BREAK == "last-words":
            os.write(self.write_fd, b"bye\n")
        os._exit(3 if BREAK == "exit-code" else 0)

    # ---- requests ---------------------------------------------------------------------------------------------

    def on_load(self, request):
        if request["configuration"] != "default" and BREAK != "any-configuration":
            raise Failure("wrong-code" if BREAK == "failure-code" else "unsupported", "no such configuration")
        if not Path(request["model_path"]).exists():
            if BREAK == "dies-of-missing-model":
                os._exit(1)
            raise Failure("bad-model", "no such file")
        if BREAK == "prints":
            os.write(self.write_fd, b"Loading weights...\n")
        self.scratch = request["scratch"]
        self.n_loads += 1
        self.send(type="progress", id=request["id"], stage="read", fraction=2 if BREAK == "fraction" else 1.0)
        time.sleep(3.5 if BREAK == "deaf-while-loading" else 0.1)
        return {
            "type": "loaded",
            "weights_fingerprint": "0" * 64 if BREAK == "fingerprint" else option("--fingerprint"),
            "precision": "16-bit" if BREAK == "precision" else "float32",
            "weight_dtype": "float32",
            "activation_dtype": "float32",
            "kv_dtype": "float32",
            "device": "none",
            "threads": request["threads"] + (BREAK == "threads"),
            "n_ctx": 8 if BREAK == "context" else request["n_ctx"],
            "vocab_size": VOCABULARY,
            "weights_bytes": 64,
            "kv_cache_bytes": 0,
            "read_bytes_per_token": 64,
            "stages": {},
            "versions": {},
            **({"mood": "good"} if BREAK == "unknown-field" else {}),
        }

    def on_generate(self, request):
        start_ns = self.now()
        prompt = self.checked(request["prompt"])
        if len(prompt) + request["n_gen"] > 64 and BREAK != "any-length":
            raise Failure("bad-request", "too many positions")
        self.n_requests += 1
        if request.get("temperature", 0) and BREAK in ("refuses-to-draw", "refuses-badly"):
            raise Failure("unsupported" if BREAK == "refuses-to-draw" else "internal", "this engine cannot draw")
        choose, stop = self.chooser(request), array.array("i", request.get("stop", b""))
        tokens, times, new = list(prompt), array.array("q"), array.array("i")
        for index in range(request["n_gen"] + {"few-ids": -1, "many-ids": 1}.get(BREAK, 0)):
            tokens.append(choose(tokens))
            if tokens[-1] in stop and BREAK == "drops-stop":
                break
            new.append(tokens[-1] + (VOCABULARY if BREAK == "foreign-ids" else 0))
            times.append(self.now())
            if (request["stream"] and BREAK != "never-streams") or BREAK == "always-streams":
                self.send(type="token", id=request["id"], index=index, token=new[-1])
            if (tokens[-1] in stop and BREAK != "ignores-stop") or (request["stream"] and self.cancelled(request)):
                self.n_ended += 1
                break
        if BREAK == "cancel-forgets" and self.n_cancels and len(new) < request["n_gen"] and not stop:
            new, times = new[:-1] or new, times[:-1] or times
            new.append(0), times.append(times[-1])
        if BREAK == "backwards" and len(times) > 1:
            times[-1] = times[0] - 1
        if BREAK == "late-reply":
            time.sleep(0.05)
        return {
            "type": "generated",
            "n_prompt": len(prompt) + (BREAK == "n-prompt"),
            "prompt_sha256": hashlib.sha256(b"" if BREAK == "hash" else request["prompt"]).hexdigest(),
            "tokens": new.tobytes(),
            "t_start_ns": start_ns - (10**9 if BREAK == "early-start" else 0),
            "t_token_ns": (times[:-1] if BREAK == "few-times" else times).tobytes(),
        }

    def cancelled(self, request):
        """Looks, without waiting."""
        if BREAK == "ignores-cancel" or not select.select([self.read_fd], [], [], 0)[0]:
            return False
        if self.receive() != {"type": "cancel", "id": request["id"]}:
            self.broken("other-message")
        self.n_cancels += 1
        return True

    def on_score(self, request):
        tokens = self.checked(request["tokens"])
        rows = [self.logits(tokens[:end]) for end in range(request["n_prefill"], len(tokens) + 1)]
        if BREAK == "few-rows":
            rows.pop()
        if BREAK == "nan":
            rows[-1][3] = float("nan")
        path = f"{self.scratch}/logits.npy"
        if BREAK == "other-folder":
            path = f"{self.scratch}-logits.npy"
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({len(rows)}, {VOCABULARY}), }}"
        header = header.ljust((10 + len(header) + 64) // 64 * 64 - 11) + "\n"
        data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()
        data += array.array("f", [value for row in rows for value in row]).tobytes()
        Path(path).write_bytes(data)
        return {
            "type": "scored",
            "path": path,
            "sha256": hashlib.sha256(data[:-1] if BREAK == "file-hash" else data).hexdigest(),
            "n_rows": len(rows) + (BREAK == "n-rows"),
        }

    def on_memory(self, request):
        self.checked(struct.pack("<i", 1))
        return {"type": "account", "weights_bytes": 0 if BREAK == "no-weights" else 64, "kv_cache_bytes": 0}

    def on_unload(self, request):
        if BREAK != "keeps-model":
            self.scratch = None
        return {"type": "memory"} if BREAK == "odd-reply" else {"type": "done"}

    def on_shutdown(self, request):
        return {"type": "done"}

    # ---- the model --------------------------------------------------------------------------------------------

    def checked(self, packed):
        ids = array.array("i", packed)
        if self.scratch is None and BREAK != "needs-no-model":
            raise Failure("bad-request", "no model")
        if max(ids) >= VOCABULARY and BREAK != "any-id":
            raise Failure("bad-request", "no such id")
        return ids

    def logits(self, tokens):
        favourite = 7 * sum(tokens) + len(tokens)
        return [-float((i - favourite) % VOCABULARY) for i in range(VOCABULARY)]

    def chooser(self, request):
        """Of one request: greedy, or drawn from the softmax."""
        temperature, seed = request.get("temperature", 0), request.get("seed", 0)
        wrong = BREAK == "always-hot" if temperature else BREAK == "stays-hot" and self.drew
        hotness = 2 if wrong else temperature
        self.drew |= temperature > 0
        if hotness < 1e-5:
            return self.choice
        draw = random.Random({"unseeded": self.n_requests, "one-seed": 0}.get(BREAK, seed))

        def choose(tokens):
            return draw.choices(range(VOCABULARY), [math.exp(value / hotness) for value in self.logits(tokens)])[0]

        return choose

    def choice(self, tokens):
        if BREAK == "remembers-the-ended":
            tokens = [*tokens, *[1] * self.n_ended]
        if BREAK == "remembers":
            tokens = [*tokens, self.n_requests]
        if BREAK == "reload" and self.n_loads > 1:
            tokens = [*tokens, 1]
        logits = self.logits(tokens)
        ranked = sorted(range(VOCABULARY), key=lambda i: -logits[i])
        return ranked[4] if BREAK == "second-best" else ranked[0]

    def now(self):
        return time.time_ns() if BREAK == "wall-clock" else time.monotonic_ns()


def watch(read_fd):
    """Ends the process when the parent goes, also while it loads."""
    poll = select.poll()
    poll.register(read_fd, 0)
    poll.poll()
    time.sleep(0.5)
    os._exit(75)


def main():
    read_fd, write_fd = os.dup(0), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    if BREAK not in ("deaf-while-loading", "outlives-parent"):
        threading.Thread(target=watch, args=(read_fd,), daemon=True).start()
    if BREAK == "silent":
        time.sleep(1000)
    if BREAK == "banner":
        os.write(write_fd, b"Second engine 1.0\n")
    if BREAK == "dies":
        sys.exit("no GPU, no fun")
    Engine(read_fd, write_fd).run()


if __name__ == "__main__":
    main()
