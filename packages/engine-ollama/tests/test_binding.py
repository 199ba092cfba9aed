"""Where the server listens, by the kernel's own account of the sockets of its processes."""

from __future__ import annotations

import os
import shutil
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from engine_ollama.server import Server

PROC = Path("/proc")
LISTENING = "0A"  # net/tcp_states.h, TCP_LISTEN


def listening(group: int) -> list[tuple[str, int]]:
    """(address, port) of every TCP socket on which a process of this group listens."""
    inodes = set(inodes_of(group))
    rows = [line.split() for name in ("tcp", "tcp6") for line in (PROC / "net" / name).read_text().splitlines()[1:]]
    return [address(row[1]) for row in rows if row[3] == LISTENING and row[9] in inodes]


def inodes_of(group: int) -> Iterator[str]:
    for folder in PROC.glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            if os.getpgid(int(folder.name)) == group:
                yield from (inode for file in (folder / "fd").iterdir() if (inode := inode_of(file)))


def inode_of(file: Path) -> str | None:
    try:
        link = str(file.readlink())
    except OSError:  # it was closed
        return None
    return link[8:-1] if link.startswith("socket:[") else None


def address(told: str) -> tuple[str, int]:
    """proc(5): words of four bytes in the order of the processor, in hexadecimal."""
    host, _, port = told.partition(":")
    words = b"".join(struct.pack("=I", int(host[i : i + 8], 16)) for i in range(0, len(host), 8))
    return socket.inet_ntop(socket.AF_INET if len(words) == 4 else socket.AF_INET6, words), int(port, 16)


def test_a_server_listens_on_loopback_only_whatever_the_caller_has_set(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a port that was free, with a model folder of its own."""
    monkeypatch.setenv("OLLAMA_HOST", "0.0.0.0:11434")
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "of the caller"))
    cache, scratch = tmp_path / "cache", tmp_path / "scratch"
    cache.mkdir()
    scratch.mkdir()
    started = Server(str(shutil.which("ollama")), cache, scratch, {})
    try:
        found = listening(os.getpgid(started._process.pid))
        assert {host for host, _ in found} == {"127.0.0.1"}
        assert f"127.0.0.1:{found[0][1]}" == started.address
        assert found[0][1] not in (0, 11434)
        assert (cache / "models").is_dir()
        assert not (tmp_path / "of the caller").exists()
    finally:
        started.close()


def test_a_socket_that_listens_everywhere_would_be_seen() -> None:
    """Negative control."""
    with socket.create_server(("", 0)) as everywhere:
        assert ("0.0.0.0", everywhere.getsockname()[1]) in listening(os.getpgid(0))
