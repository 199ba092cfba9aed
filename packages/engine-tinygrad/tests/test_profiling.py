"""A trace of a real request: its kernels are those of the graphs, as often as its tokens ask for."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from pathlib import Path
from typing import Any


def test_a_trace_has_the_kernels_of_every_token_and_changes_no_answer(ready: Any, tmp_path: Path) -> None:
    prompt = array("i", [1, 2, 3])
    before = list(ready.engine.generate(prompt, 4))
    files = ready.engine.profile(prompt, 4, tmp_path)
    events = json.loads(files["trace.json"].read_text())["traceEvents"]
    kernels = Counter(event["name"] for event in events if event.get("cat") == "kernel")
    assert 4 in kernels.values()  # the output head, once for each token
    assert all(event["dur"] > 0 for event in events if event.get("cat") == "kernel")
    assert {event["tid"] for event in events} == {event["tid"] for event in events if event["ph"] == "M"}
    assert list(ready.engine.generate(prompt, 4)) == before
