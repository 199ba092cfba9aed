"""`just browser`: a Chromium and axe-core for the browser tests, below this folder, without root.

Both come as packages of npm; npm itself is that of the machine, or of the dependency group `browser`.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKED = HERE / "node_modules" / "@sparticuz" / "chromium" / "bin"
UNPACKED = HERE / "node_modules" / ".chromium"
INFLATE = """
const fs = require("fs"), zlib = require("zlib")
fs.writeFileSync(process.argv[2], zlib.brotliDecompressSync(fs.readFileSync(process.argv[1])), {mode: 0o755})
"""
"""Node, because Python has no Brotli of its own."""


def main() -> None:
    npm = ["npm", "install", "--prefix", str(HERE), "--ignore-scripts", "--no-package-lock", "--no-audit", "--no-fund"]
    subprocess.run(npm, check=True)
    UNPACKED.mkdir(exist_ok=True)
    inflate(PACKED / "chromium.br", UNPACKED / "chromium")
    for name in ("al2023", "fonts"):
        archive = UNPACKED / f"{name}.tar"
        inflate(PACKED / f"{name}.tar.br", archive)
        shutil.unpack_archive(archive, UNPACKED, filter="data")
        archive.unlink()
    print(UNPACKED / "chromium")


def inflate(packed: Path, to: Path) -> None:
    subprocess.run(["node", "-e", INFLATE, str(packed), str(to)], check=True)


if __name__ == "__main__":
    main()
