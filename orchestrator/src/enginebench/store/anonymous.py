"""Nothing of this machine but its kind goes into a result: its folders and its host name are replaced in texts."""

from __future__ import annotations

import os
import pwd
import re
import socket
import tempfile
from functools import cache
from pathlib import Path

import msgspec
from enginebench_protocol.host import cache_folder

from enginebench.workspace.discovery import ROOT

from .record import Launch

_LOGIN = re.compile(r"(?<=//)[^/@\s]+@|[^\s/@:='\"]*:[^\s/@]+@(?=[\w.\[-]+(?::\d|[/\s]|$))")
"""In front of a host: user:password@, or a token."""


def anonymous(text: str) -> str:
    """`text` with the folders, the user and the host name of this machine replaced by what they are."""
    for place, name in _places():
        text = re.sub(place, name, text)
    return without_login(text)


def without_login(text: str) -> str:
    """An address keeps its host and loses who asks there."""
    return _LOGIN.sub("", text)


@cache
def _places() -> list[tuple[str, str]]:
    """(pattern, name), longest folder first: the checkout may lie in the home folder."""
    folders = {
        str(ROOT): "<checkout>",
        str(cache_folder()): "<cache>",
        tempfile.gettempdir(): "<tmp>",
        str(Path.home()): "~",
    }
    places = [(re.escape(folder), name) for folder, name in folders.items() if len(folder) > 1]
    places.sort(key=lambda place: -len(place[0]))
    host = socket.gethostname()
    return [*places, *([(rf"\b{re.escape(host)}\b", "<host>")] if host else []), *_user()]


def _user() -> list[tuple[str, str]]:
    """Root is nobody in particular, and a word of many messages."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user without an entry
        return []
    return [] if name == "root" else [(rf"\b{re.escape(name)}\b", "<user>")]


def anonymous_launch(launch: Launch) -> Launch:
    if launch.loaded is not None and launch.loaded.weights_path:
        named = msgspec.structs.replace(launch.loaded, weights_path=anonymous(launch.loaded.weights_path))
        launch = msgspec.structs.replace(launch, loaded=named)
    failure = launch.failure
    if failure is None:
        return launch
    cleaned = msgspec.structs.replace(
        failure,
        message=anonymous(failure.message),
        hint=anonymous(failure.hint),
        detail=anonymous(failure.detail),
        stderr_tail=[anonymous(line) for line in failure.stderr_tail],
    )
    return msgspec.structs.replace(launch, failure=cleaned)
