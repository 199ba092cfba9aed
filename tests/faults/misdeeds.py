"""What a misbehaving engine does, by name: ACTS happen at a place of the dialogue, CHANGES alter what is said there.

Runs in the child, with the standard library alone. Every sleep ends by itself in the end, and so do grandchildren.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import struct
import subprocess
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .child import Child

FOREVER_SECONDS = 100
STDERR_BYTES, PIPE_BYTES = 2 << 20, 64 << 10
"""Thirty times what a pipe holds."""
DATA_FRAME_BYTES = 4 << 20

Message = dict[str, Any]


class DeviceOutOfMemory(Exception):
    """As torch.cuda.OutOfMemoryError."""


# ---- noise: an engine is disturbed by none of it ------------------------------------------------------------------


def noise_print(child: Child) -> None:
    print("noise from print", flush=True)


def noise_c(child: Child) -> None:
    libc = _libc()
    libc.puts(b"noise from C stdio")
    libc.fflush(None)


def noise_write(child: Child) -> None:
    os.write(1, b"noise from write(1)\n")


def noise_grandchild(child: Child) -> None:
    subprocess.run(["/bin/sh", "-c", "echo noise from a grandchild"], check=True)


def noise_stderr(child: Child) -> None:
    for _ in range(STDERR_BYTES // PIPE_BYTES):
        os.write(2, (b"x" * 1023 + b"\n") * (PIPE_BYTES // 1024))


def noise_endless_line(child: Child) -> None:
    for _ in range(STDERR_BYTES // PIPE_BYTES):
        os.write(2, b"\x1b[2J\x00" + b"y" * (PIPE_BYTES - 5))


# ---- frames that are none -----------------------------------------------------------------------------------------


def half_frame_exit(child: Child) -> None:
    _half_frame(child)
    os._exit(0)


def half_frame_kill(child: Child) -> None:
    _half_frame(child)
    os.kill(os.getpid(), signal.SIGKILL)


def half_frame_sleep(child: Child) -> None:
    _half_frame(child)
    time.sleep(FOREVER_SECONDS)


def half_frame_close(child: Child) -> None:
    _half_frame(child)
    close_pipes(child)


def half_length_exit(child: Child) -> None:
    child.write(b"\0\0")
    os._exit(0)


def oversize(child: Child) -> None:
    child.write(struct.pack(">I", DATA_FRAME_BYTES + 1))


def most_oversize(child: Child) -> None:
    child.write(b"\xff\xff\xff\xff")


def zero_length(child: Child) -> None:
    child.write(b"\0\0\0\0")


def garbage(child: Child) -> None:
    """Its first four bytes claim far more than a frame may have."""
    child.write(b"\x7f" + random.Random(child.nonce).randbytes(63))


def garbage_payload(child: Child) -> None:
    """A sound frame; 0xc1 is the one byte that begins no msgpack value."""
    _frame(child, b"\xc1" + random.Random(child.nonce).randbytes(63))


def no_map(child: Child) -> None:
    _frame(child, b"\x93\x01\x02\x03")


def deep_value(child: Child) -> None:
    _frame(child, b"\x91" * 60_000)


def unknown_message(child: Child) -> None:
    _frame(child, b"\x82\xa4type\xa8surprise\xa2id\x01")


# ---- what nobody asked for ----------------------------------------------------------------------------------------


def reply_to_nobody(child: Child) -> None:
    _frame(child, b"\x82\xa4type\xa4done\xa2id\xcd\x03\xe7")


def hello_again(child: Child) -> None:
    import msgpack

    _frame(child, msgpack.packb(child.hello()))


def token_event(child: Child) -> None:
    """Of the very request, but it is a timed one: nobody asked for events."""
    import msgpack

    _frame(child, msgpack.packb({"type": "token", "id": child.request["id"], "index": 0, "token": 1}))


def endless_progress(child: Child) -> None:
    """Signs of life, and no end."""
    import msgpack

    event = {"type": "progress", "id": child.request["id"], "stage": "read", "fraction": 0.5}
    for _ in range(FOREVER_SECONDS * 50):
        _frame(child, msgpack.packb(event))
        time.sleep(0.02)


# ---- hangs --------------------------------------------------------------------------------------------------------


def sleep(child: Child) -> None:
    time.sleep(FOREVER_SECONDS)


def sleep_stubbornly(child: Child) -> None:
    for ignored in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    time.sleep(FOREVER_SECONDS)


def sleep_with_gil(child: Child) -> None:
    """As native code does that was called without giving the interpreter back."""
    import ctypes

    ctypes.PyDLL(None).sleep(FOREVER_SECONDS)


def spin(child: Child) -> None:
    end = time.monotonic() + FOREVER_SECONDS
    while time.monotonic() < end:
        pass


def spin_with_gil(child: Child) -> None:
    """One call of C that gives the interpreter to nobody."""
    pow(3, 1 << 40_000_000, (1 << 40_000_000) - 1)


def stop(child: Child) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


# ---- ends ---------------------------------------------------------------------------------------------------------


def exit_0(child: Child) -> None:
    os._exit(0)


def exit_3(child: Child) -> None:
    os._exit(3)


def uncaught(child: Child) -> None:
    raise RuntimeError("a bug of the engine that nobody caught")


def abort(child: Child) -> None:
    os.abort()


def segfault(child: Child) -> None:
    import ctypes

    ctypes.string_at(0)


def kill(child: Child) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def terminate(child: Child) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def fork_and_exit(child: Child) -> None:
    """What is left holds the pipes, is no child of ours, and says nothing."""
    if os.fork():
        os._exit(0)
    time.sleep(FOREVER_SECONDS)


def close_pipes(child: Child) -> None:
    os.close(child.write_fd)
    os.close(child.read_fd)
    time.sleep(FOREVER_SECONDS)


# ---- memory -------------------------------------------------------------------------------------------------------


def host_memory(child: Child) -> None:
    """A real refusal by the kernel, within limits of our own: the machine is in no danger."""
    _limit_memory()
    try:
        bytearray(1 << 30)
    except MemoryError:
        raise MemoryError("out of host memory") from None


def device_memory(child: Child) -> None:
    raise DeviceOutOfMemory("CUDA out of memory")


# ---- grandchildren ------------------------------------------------------------------------------------------------


def grandchild(child: Child) -> None:
    subprocess.Popen(_sleeper(child))


def grandchild_session(child: Child) -> None:
    """A group and a session of its own: killing the engine's does not reach it."""
    subprocess.Popen(_sleeper(child), start_new_session=True)


def grandchild_daemon(child: Child) -> None:
    """Twice forked: its parent is gone, and so is all that led to it."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for fd in (child.read_fd, child.write_fd):
                os.close(fd)
            os.execv(_sleeper(child)[0], _sleeper(child))
        os._exit(0)
    os.wait()


def grandchild_holds_pipe(child: Child) -> None:
    """The engine is gone, but the stream does not end."""
    subprocess.Popen(_sleeper(child), pass_fds=(child.read_fd, child.write_fd))
    os._exit(3)


def grandchild_session_holds_pipe(child: Child) -> None:
    subprocess.Popen(_sleeper(child), pass_fds=(child.read_fd, child.write_fd), start_new_session=True)
    os.kill(os.getpid(), signal.SIGKILL)


# ---- what is said otherwise ---------------------------------------------------------------------------------------


def _with(**fields: Any) -> Callable[[Message], list[Message]]:
    return lambda message: [{**message, **fields}]


def _number(message: Message, value: Any) -> list[Message]:
    """In place of the last number."""
    name = [name for name, given in message.items() if isinstance(given, (int, float))][-1]
    return [{**message, name: value}]


def _times(message: Message, change: Callable[[list[int]], list[int]]) -> list[Message]:
    times = list(struct.unpack(f"<{len(message['t_token_ns']) // 8}q", message["t_token_ns"]))
    changed = change(times)
    return [{**message, "t_token_ns": struct.pack(f"<{len(changed)}q", *changed)}]


def _ids(message: Message, change: Callable[[list[int]], list[int]]) -> list[Message]:
    ids = list(struct.unpack(f"<{len(message['tokens']) // 4}i", message["tokens"]))
    changed = change(ids)
    return [{**message, "tokens": struct.pack(f"<{len(changed)}i", *changed)}]


def _other_kind(message: Message) -> list[Message]:
    other = (
        {"type": "done"} if message["type"] != "done" else {"type": "account", "weights_bytes": 0, "kv_cache_bytes": 0}
    )
    return [{**other, "id": message["id"]}]


def _failed(code: str) -> Callable[[Message], list[Message]]:
    return lambda message: [{"type": "failed", "id": message["id"], "code": code, "message": "it was asked to"}]


def _file(name: str, path: str) -> Callable[[Message], list[Message]]:
    return lambda message: [{**message, "files": {name: path or message["files"]["trace.json"]}}]


CHANGES: dict[str, Callable[[Message], list[Message]]] = {
    "wrong version": _with(protocol=2),
    "wrong nonce": _with(nonce="0" * 32),
    "wrong engine": _with(engine="another"),
    "other than hello": lambda message: [{"type": "done", "id": 1}],
    "unknown field": _with(surprise=1),
    "missing field": lambda message: [{name: message[name] for name in list(message)[:-1]}],
    "NaN": lambda message: _number(message, float("nan")),
    "infinity": lambda message: _number(message, float("inf")),
    "number beyond all bounds": lambda message: _number(message, (1 << 64) - 1),
    "negative number": lambda message: _number(message, -1),
    "text for a number": lambda message: _number(message, "1"),
    "NaN fraction": _with(fraction=float("nan")),
    "times run backwards": lambda message: _times(message, lambda times: times[::-1]),
    "token before the start": lambda message: _times(message, lambda times: [0, *times[1:]]),
    "negative times": lambda message: _times(message, lambda times: [-time_ns for time_ns in times[::-1]]),
    "torn list of times": lambda message: [{**message, "t_token_ns": message["t_token_ns"][:-1]}],
    "another vocabulary": lambda message: [{**message, "vocab_size": message["vocab_size"] + 1}],
    "too few tokens": lambda message: _ids(message, lambda ids: ids[:-1]),
    "too many tokens": lambda message: _ids(message, lambda ids: [*ids, 1]),
    "no tokens": lambda message: _ids(message, lambda ids: []),
    "negative token": lambda message: _ids(message, lambda ids: [-1, *ids[1:]]),
    "token outside the vocabulary": lambda message: _ids(message, lambda ids: [1 << 30, *ids[1:]]),
    "torn list of tokens": lambda message: [{**message, "tokens": message["tokens"][:-1]}],
    "other prompt": _with(prompt_sha256="1" * 64),
    "other prompt length": lambda message: [{**message, "n_prompt": message["n_prompt"] + 1}],
    "other id": lambda message: [{**message, "id": message["id"] + 1}],
    "other kind": _other_kind,
    "reply twice": lambda message: [message, message],
    "says unsupported": _failed("unsupported"),
    "says internal": _failed("internal"),
    "says no known code": _failed("surprise"),
    "file outside": _file("trace.json", "/etc/passwd"),
    "file that is not there": _file("trace.json", "gone.json"),
    "file named like a path": _file("../../trace.json", ""),
}

ACTS: dict[str, Callable[[Child], None]] = {
    "noise: print": noise_print,
    "noise: C stdio": noise_c,
    "noise: write": noise_write,
    "noise: grandchild": noise_grandchild,
    "noise: flood of stderr": noise_stderr,
    "noise: endless line": noise_endless_line,
    "half a frame, exit": half_frame_exit,
    "half a frame, SIGKILL": half_frame_kill,
    "half a frame, silence": half_frame_sleep,
    "half a frame, pipes closed": half_frame_close,
    "half a length, exit": half_length_exit,
    "length above the cap": oversize,
    "length of 2^32 - 1": most_oversize,
    "length of zero": zero_length,
    "garbage": garbage,
    "garbage in a frame": garbage_payload,
    "no map": no_map,
    "nested too deep": deep_value,
    "unknown message": unknown_message,
    "reply to nobody": reply_to_nobody,
    "hello again": hello_again,
    "token event": token_event,
    "endless progress": endless_progress,
    "sleep": sleep,
    "sleep, deaf to SIGTERM": sleep_stubbornly,
    "sleep with the GIL": sleep_with_gil,
    "spin": spin,
    "spin with the GIL": spin_with_gil,
    "SIGSTOP": stop,
    "exit 0": exit_0,
    "exit 3": exit_3,
    "uncaught exception": uncaught,
    "abort": abort,
    "segfault": segfault,
    "SIGKILL": kill,
    "SIGTERM": terminate,
    "fork, parent exits": fork_and_exit,
    "pipes closed": close_pipes,
    "host out of memory": host_memory,
    "device out of memory": device_memory,
    "grandchild": grandchild,
    "grandchild, own session": grandchild_session,
    "grandchild, twice forked": grandchild_daemon,
    "grandchild holds the pipe": grandchild_holds_pipe,
    "grandchild, own session, holds the pipe": grandchild_session_holds_pipe,
}


def _sleeper(child: Child) -> list[str]:
    """The mark is a number of seconds, so that the process is known by it."""
    return ["/bin/sleep", child.mark]


def _libc() -> Any:
    import ctypes

    return ctypes.CDLL(None)


def _frame(child: Child, payload: bytes) -> None:
    child.write(struct.pack(">I", len(payload)) + payload)


def _half_frame(child: Child) -> None:
    child.write(struct.pack(">I", 1000) + b"\x82" * 500)


def _limit_memory() -> None:
    """To half a GiB more than is in use."""
    with open("/proc/self/statm") as file:  # noqa: PTH123 - pathlib costs a child its quick start
        in_use = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + (512 << 20), resource.RLIM_INFINITY))
