"""`just selfbench`: measures this benchmark itself and writes docs/selfbench.md.

Ratios only, from engines that take turns in one run; a target and the measured value side by side. The parts are
harness.py's and those of every engine that has a tests/selfbench.py; each can be run alone: `just selfbench limit`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import harness
import talking
from bench import ROOT, Bench, Row
from enginebench.errors import UnavailableError
from enginebench.machine import facts as machine

PAGE = ROOT / "docs" / "selfbench.md"
RAW = ROOT / "docs" / "selfbench.json"

INTRODUCTION = """\
Written by `just selfbench`; the same values are in selfbench.json. Llama 3.2 1B with synthetic weights, GGUF F16.
Contenders take turns in one run, 16 prompt tokens each; a ratio is the median over the rounds of the ratio within a
round, the rates beside it are medians of their own. The machine is shared and noisy: only the ratios mean something."""

Part = Callable[[Bench], list[Row]]


def main() -> int:
    parts = all_parts()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *parts], default=[])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--n-gen", type=int, default=24)
    options = parser.parse_args()
    kept = json.loads(RAW.read_text()) if RAW.exists() else {}
    for name in options.parts or parts:
        print(f"measuring {name}", file=sys.stderr, flush=True)
        try:
            kept[name] = measured(parts[name], Bench(options.rounds, options.n_gen))
        except UnavailableError as error:
            print(f"  not measured: {error}", file=sys.stderr)
            continue
        for row in kept[name]["rows"]:
            print(f"  {row['what']}: {row['value']} (target {row['target']})", file=sys.stderr, flush=True)
    kept = {name: kept[name] for name in parts if name in kept}
    RAW.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(page(kept))
    return 0 if all(row["passed"] for part in kept.values() for row in part["rows"]) else 1


def all_parts() -> dict[str, Part]:
    """Name → what to measure, of the harness first."""
    parts: dict[str, Part] = dict(harness.PARTS) | talking.PARTS
    for path in sorted(ROOT.glob("packages/*/tests/selfbench.py")):
        parts |= loaded(path).PARTS
    return parts


def loaded(path: Path) -> Any:
    """A module by its path: those of the engines all have the same name."""
    spec = importlib.util.spec_from_file_location(f"selfbench_of_{path.parts[-3]}", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measured(part: Part, bench: Bench) -> dict[str, Any]:
    """The rows of a part, and what they were measured with."""
    rows = [asdict(row) for row in part(bench)]
    found = machine.environment()
    return {
        "date": found["date"],
        "commit": (found["repository"] or {}).get("commit"),
        "cpu": found["cpu"]["model"],
        "threads": bench.threads,
        "rounds": bench.rounds,
        "n_gen": bench.n_gen,
        "versions": bench.versions,
        "rows": rows,
    }


def page(parts: dict[str, dict[str, Any]]) -> str:
    lines = [
        "# The benchmark, measured",
        "",
        INTRODUCTION,
        "",
        "| what | measured | target | reached |",
        "|---|---|---|---|",
    ]
    for part in parts.values():
        for row in part["rows"]:
            reached = "yes" if row["passed"] else "**no**"
            lines.append(f"| {row['what']} | {row['value']} | {row['target']} | {reached} |")
    lines += ["", "| part | when and at which commit | with |", "|---|---|---|"]
    for name, part in parts.items():
        how = [part["cpu"], f"{part['threads']} threads", f"{part['rounds']} rounds of {part['n_gen']} tokens"]
        how += [f"{library} {version}" for library, version in part["versions"].items()]
        lines.append(f"| {name} | {part['date'][:16]}, {(part['commit'] or '?')[:9]} | {', '.join(how)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    os.chdir(ROOT)
    raise SystemExit(main())
