"""What says where a result comes from: folders, people, machines and logins leave it."""

from __future__ import annotations

import pwd
import socket
from pathlib import Path

import pytest
from enginebench.run.overheard import shown
from enginebench.store import anonymous as module
from enginebench.store.anonymous import anonymous, without_login
from enginebench.store.manifest import without_folders
from enginebench_protocol.codec import encode
from enginebench_protocol.messages import Load


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("http://me:word@host:11434", "http://host:11434"),
        ("http://word@host/x", "http://host/x"),
        ("me:word@host:11434", "host:11434"),
        (
            "none answers at http://me:wo:rd@127.0.0.1:1: refused",
            "none answers at http://127.0.0.1:1: refused",
        ),
        ("ollama.host=http://me:word@[::1]:1", "ollama.host=http://[::1]:1"),
        ("pp512+tg128@d4096", "pp512+tg128@d4096"),
        ("write to me@host.org", "write to me@host.org"),
        ("torch:half at 3:15 @ 2 GHz", "torch:half at 3:15 @ 2 GHz"),
    ],
)
def test_an_address_loses_who_asks_there(text: str, cleaned: str) -> None:
    assert without_login(text) == cleaned


@pytest.mark.parametrize(
    ("word", "kept"),
    [
        ("--ollama-host=http://me:word@host:1", "--ollama-host=…/host:1"),
        ("http://me:word@host:1", "…/host:1"),
        ("me:word@host:1", "host:1"),
        ("--model=/home/me/m.gguf", "--model=…/m.gguf"),
        ("--n-gen=64", "--n-gen=64"),
    ],
)
def test_a_word_of_the_command_loses_folders_and_logins(word: str, kept: str) -> None:
    assert without_folders(word) == kept


def test_what_debug_shows_of_a_load_holds_no_login() -> None:
    load = Load(
        id=1, configuration="default", model_path="/m", n_ctx=1, device="cpu", threads=1, cache="/c", scratch="/s",
        options={"host": "http://me:word@host:1"},
    )  # fmt: skip
    assert "host:1" in shown(encode(load))
    assert "word" not in shown(encode(load))


def test_people_folders_and_machines_become_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = pwd.getpwuid(0)
    monkeypatch.setattr(module.pwd, "getpwuid", lambda uid: pwd.struct_passwd(("jdoe", *entry[1:])))
    module._places.cache_clear()
    text = f"{Path.home()}/x of jdoe on {socket.gethostname()}: jdoelike"
    try:
        assert anonymous(text) == "~/x of <user> on <host>: jdoelike"
    finally:
        module._places.cache_clear()


def test_a_machine_without_a_name_changes_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.socket, "gethostname", lambda: "")
    module._places.cache_clear()
    try:
        assert anonymous("two words") == "two words"
    finally:
        module._places.cache_clear()
