"""A real child process: nothing but frames on its stdout, and it never outlives its parent."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from enginebench_protocol.client import Client
from enginebench_protocol.codec import decode, encode, pack_ids
from enginebench_protocol.errors import FrameError, ProtocolError, StreamClosed
from enginebench_protocol.framing import FrameStream, framed
from enginebench_protocol.messages import FromEngine, Generate, Hello, Load, Memory

Spawn = Callable[..., tuple[subprocess.Popen[bytes], Client]]

PARENT = """
import subprocess, sys, time
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
sys.stdout.write(f"{child.pid}\\n")
sys.stdout.flush()
FRAMES
time.sleep(1000)
"""
"""A stand-in for the orchestrator: starts the child, tells its pid, sends what it is told, sleeps."""


def load_fields(folder: Path, configuration: str = "plain") -> dict[str, Any]:
    model = folder / "model"
    model.touch()
    return {
        "configuration": configuration,
        "model_path": str(model),
        "n_ctx": 64,
        "device": "cpu",
        "threads": 1,
        "cache": str(folder),
        "scratch": str(folder),
    }


def test_a_whole_life_over_pipes(spawn: Spawn, tmp_path: Path) -> None:
    child, client = spawn()
    hello = client.hello("toy", "n1", 30)
    assert hello.pid == child.pid
    assert client.load(30, **load_fields(tmp_path)).vocab_size == 16
    reply, received = client.generate(pack_ids([1, 2, 3]), 8, 30)
    assert len(reply.tokens) == 4 * 8
    assert received.t_sent_ns < reply.t_start_ns < received.t_received_ns, "one clock for both processes"
    assert client.score([1, 2, 3], 2, 30).n_rows == 2
    assert client.memory(30).weights_bytes == 64
    client.unload(30)
    client.shutdown(30)
    assert child.wait(10) == 0


def test_nothing_an_engine_prints_reaches_the_stream(spawn: Spawn, tmp_path: Path) -> None:
    child, client = spawn()
    client.hello("toy", "n1", 30)
    client.load(30, **load_fields(tmp_path, "noisy"))
    for _ in range(3):
        client.generate(pack_ids([1]), 2, 30)
    client.shutdown(30)
    assert child.wait(10) == 0
    assert child.stdout is not None
    assert child.stderr is not None
    os.set_blocking(child.stdout.fileno(), True)
    assert child.stdout.read() == b"", "no byte after the last frame"
    log = child.stderr.read().decode()
    for source in ("print", "write(1)", "C stdio", "a grandchild"):
        assert log.count(f"NOISE from {source}") == 4, f"{source}: once in load and in each of three requests"


def test_without_the_guard_the_same_noise_breaks_the_stream(tmp_path: Path) -> None:
    """Negative control: the engine really is noisy, and the parent really would notice."""
    unguarded = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent / 'support')!r})\n"
        "from enginebench_protocol.serve import serve_process\n"
        "sys.exit(serve_process('toy_engine:ToyEngine', 0, 1, []))"
    )
    with subprocess.Popen([sys.executable, "-c", unguarded], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin and child.stdout
        client = Client(FrameStream(child.stdout.fileno(), child.stdin.fileno()))
        client.hello("toy", "", 30)
        with pytest.raises(ProtocolError) as caught:
            client.load(30, **load_fields(tmp_path, "noisy"))
        assert isinstance(caught.value, FrameError)
        child.kill()


def test_an_orderly_end_of_file_ends_an_idle_engine_with_75(spawn: Spawn) -> None:
    child, client = spawn()
    client.hello("toy", "n1", 30)
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(5) == 75


def test_an_end_of_file_ends_a_busy_engine_with_75(spawn: Spawn, tmp_path: Path) -> None:
    child, client = spawn()
    client.hello("toy", "n1", 30)
    client.stream.send(encode(load_request(tmp_path, "stuck")))
    time.sleep(0.3)
    assert child.poll() is None
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(5) == 75


def test_garbage_ends_an_engine_with_76(spawn: Spawn) -> None:
    child, client = spawn()
    client.hello("toy", "n1", 30)
    client.stream.send(b"no message at all")
    assert child.wait(5) == 76
    with pytest.raises(StreamClosed):
        client.stream.receive(timeout=5)


def test_a_missing_nonce_is_an_empty_one(toy_command: list[str]) -> None:
    done = subprocess.run(toy_command, input=b"", capture_output=True, timeout=30)
    assert done.returncode == 75
    hello = decode(done.stdout[4:], FromEngine)
    assert isinstance(hello, Hello)
    assert hello.nonce == ""


@pytest.mark.parametrize("busy", [None, "stuck", "native"], ids=["idle", "sleeping", "in-native-code"])
def test_a_child_dies_with_a_parent_that_was_killed(toy_command: list[str], tmp_path: Path, busy: str | None) -> None:
    frames = b"" if busy is None else framed(encode(load_request(tmp_path, busy)))
    script = PARENT.replace("FRAMES", f"child.stdin.write({frames!r}); child.stdin.flush()")
    parent = subprocess.Popen([sys.executable, "-c", script, *toy_command, "serve"], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    wait_until(lambda: "Threads:\t2" in status(pid), 30)  # it serves, and watches
    time.sleep(0.3)
    assert status(pid)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not status(pid), 3)


def load_request(folder: Path, configuration: str) -> Any:
    return Load(id=1, **load_fields(folder, configuration))


def status(pid: int) -> str:
    """/proc/PID/status of a living process; empty if it is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return ""
    return "" if "State:\tZ" in text else text


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)


def test_requests_of_all_sizes_get_through_a_pipe_that_holds_64_kib(spawn: Spawn, tmp_path: Path) -> None:
    _, client = spawn()
    client.hello("toy", "n1", 30)
    client.load(30, **{**load_fields(tmp_path), "n_ctx": 262_144})
    for n_prompt in (1, 20_000, 200_000):
        generated = client.request(Generate(id=7, prompt=pack_ids([1] * n_prompt), n_gen=1), 60).reply
        assert generated.n_prompt == n_prompt
    assert client.request(Memory(id=8), 30).reply.id == 8
