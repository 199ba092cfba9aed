"""Pages that come from result files: the table in the README, docs/selftest.md. `--check` fails if one is stale."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from enginebench.report import table
from enginebench.selftest.page import PAGE, RAW, markdown, read_parts
from enginebench.store.result import read_result

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
REFERENCE = ROOT / "results" / "reference"
MARKS = re.compile(r"(<!-- table: [^\n]*-->\n).*?(<!-- end of table -->)", re.DOTALL)


def latest() -> Path:
    """The newest reference run: their folders begin with the date."""
    return max(REFERENCE.glob("*/result.json"))


def generated(text: str) -> str:
    body = f"\n{table.markdown(read_result(latest())).strip()}\n\n"
    text = MARKS.sub(lambda match: match[1] + body + match[2], text)
    return re.sub(r"results/reference/[\w-]+/result.json", str(latest().relative_to(ROOT)), text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    pages = {README: generated(README.read_text()), DOCS / PAGE: markdown(read_parts(DOCS / RAW))}
    stale = [page for page, text in pages.items() if page.read_text() != text]
    if not parser.parse_args().check:
        for page in stale:
            page.write_text(pages[page])
        return 0
    for page in stale:
        print(f"{page.relative_to(ROOT)} is stale: python tests/generated.py")
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
