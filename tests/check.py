"""`just check`: lint, types, architecture, pins, and that no file names a registry host. One line each at the end."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STRICT = ["protocol/src/enginebench_protocol", "models/src/enginebench_models", "orchestrator/src/enginebench"]
# Lock files and caches of package managers; a pin is a name, a version and a hash, never an address.
HOSTS = re.compile(r"https?://[\w.-]*(?:pypi|pythonhosted|npmjs|debian|golang)[\w.-]*", re.IGNORECASE)


def main() -> int:
    python = sys.executable
    engines = sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("packages/*/src/*") if p.is_dir())
    sources = [*map(str, ROOT.glob("packages/*/src")), str(ROOT / "protocol" / "src"), str(ROOT / "models" / "src")]
    # Engines are checked without their libraries: those are not in this environment.
    mypy_engines = [python, "-m", "mypy", "--config-file", "packages/mypy.ini", *engines]
    outcomes = {
        "ruff": call(python, "-m", "ruff", "check", "."),
        "mypy --strict (protocol, models, orchestrator)": call(python, "-m", "mypy", *STRICT),
        "mypy (engines)": call(*mypy_engines, MYPYPATH=":".join(sources)),
        "architecture": call(python, "-m", "pytest", "-q", "tests/test_architecture.py"),
        "pins": call(python, "-m", "enginebench", "pins", "--check"),
        "documentation": call(
            python, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "docs", "-b", "html", ".", "docs/site"
        ),
        "generated pages": call(python, "tests/generated.py", "--check"),
        "no registry hosts": no_hosts(),
    }
    print()
    for name, passed in outcomes.items():
        print(f"{'passed' if passed else 'FAILED'}  {name}")
    return 0 if all(outcomes.values()) else 1


def call(*command: str, **environment: str) -> bool:
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, check=False).returncode == 0


def no_hosts() -> bool:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = [
        f"{name}:{number}: {match.group()}"
        for name in listed.splitlines()
        if (ROOT / name).is_file()
        for number, line in enumerate((ROOT / name).read_text(errors="replace").splitlines(), 1)
        if (match := HOSTS.search(line))
    ]
    print("\n".join(found), end="\n" if found else "")
    return not found


if __name__ == "__main__":
    raise SystemExit(main())
