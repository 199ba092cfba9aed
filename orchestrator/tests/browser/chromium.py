"""A headless Chromium, driven over its own pipe: the DevTools protocol, and nothing to install but the browser.

Messages are JSON, each ended by a zero byte, on the descriptors 3 (to the browser) and 4 (from it).
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
MODULES = Path(__file__).parent / "node_modules"
UNPACKED = MODULES / ".chromium"
"""Where `just browser` puts the one that comes with a package of npm, its libraries and a font beside it."""
ARGUMENTS = (
    "--headless",
    "--no-sandbox",  # pages are our own, and tests may run as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-zygote",
    "--force-color-profile=srgb",
    "--remote-debugging-pipe",
)


class BrowserFailed(Exception):
    """The browser did not answer, or not as it should."""


def find_chromium() -> Path | None:
    on_path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if on_path:
        return Path(on_path)
    return UNPACKED / "chromium" if (UNPACKED / "chromium").is_file() else None


class Page:
    """One tab. `events` holds what the browser told unasked, in its order."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._pending, self._number, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "Accessibility"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self.events.append(answer)
        if "error" in answer:
            raise BrowserFailed(f"{method}: {answer['error']}")
        found: dict[str, Any] = answer["result"]
        return found

    def _next(self, seconds: float = 30.0) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while b"\0" not in self._pending:
            if not select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise BrowserFailed(f"no answer within {seconds:g} s")
            read = os.read(self._from, 1 << 20)
            if not read:
                raise BrowserFailed("the browser ended")
            self._pending += read
        line, _, self._pending = self._pending.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def show(self, file: Path, width: int, scheme: str = "light", media: str = "screen") -> None:
        """Load a file as a window of this width sees it, and wait until it is there."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.ask("Emulation.setEmulatedMedia", media=media, features=features)
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        self.events.clear()
        self.ask("Page.navigate", url=file.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited. The page's policy does not bind us."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise BrowserFailed(str(answer["exceptionDetails"])[:2000])
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        code = {"Tab": 9, "Enter": 13, " ": 32}[key]
        text = {"Enter": "\r", " ": " "}.get(key, "")
        for kind in ("keyDown", "keyUp"):
            self.ask(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                windowsVirtualKeyCode=code,
                text=text * (kind == "keyDown"),
            )

    def screenshot(self, whole: bool = False) -> bytes:
        answer = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(answer["data"])

    def told(self, *methods: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self.events if event.get("method") in methods]


@contextlib.contextmanager
def opened(chromium: Path, profile: Path) -> Iterator[Page]:
    """A browser with one tab, which is gone afterwards with all its children."""
    browser_reads, we_write = map(_high, os.pipe())
    we_read, browser_writes = map(_high, os.pipe())
    beside = {"LD_LIBRARY_PATH": str(UNPACKED / "lib")} if chromium.parent == UNPACKED else {}
    pid = os.posix_spawn(
        chromium,
        [str(chromium), *ARGUMENTS, f"--user-data-dir={profile}"],
        {**os.environ, **beside},
        file_actions=[
            *((os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(3)),
            (os.POSIX_SPAWN_DUP2, browser_reads, 3),
            (os.POSIX_SPAWN_DUP2, browser_writes, 4),
        ],
        setpgroup=0,
    )
    os.close(browser_reads)
    os.close(browser_writes)
    try:
        yield Page(we_write, we_read)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(we_write)
        os.close(we_read)


def _high(fd: int) -> int:
    """Out of the way of 3 and 4; not inherited."""
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(fd)
    return moved
