"""engine-torch against Hugging Face, the limit and a plain read (`just selfbench torch_optimized …`)."""

from __future__ import annotations

import os
import re
import statistics
import time
from pathlib import Path

from bench import ROOT, Bench, Row, ratio_row
from enginebench_models.checkpoint import open_checkpoint
from side_by_side import Contender, started
from talking import talking

TRANSFORMERS = "5.23.0"


def torch_optimized(bench: Bench) -> list[Row]:
    """Against both 16-bit types of Hugging Face; what reading at the limit's speed would reach stands beside it."""
    ours, float16, bfloat16, limit = bench.duel(
        bench.contender("torch", "optimized"),
        hugging_face(bench, "float16"),
        hugging_face(bench, "bfloat16"),
        bench.contender("limit", "default"),
    )
    return [
        ratio_row(ours, float16, 1.5, ceiling=limit),
        ratio_row(ours, bfloat16, 1.5, ceiling=limit),
        ratio_row(ours, limit, 0.7),
    ]


def torch_baseline(bench: Bench) -> list[Row]:
    ours, theirs = bench.duel(bench.contender("torch", "baseline"), hugging_face(bench, "float32"))
    return [ratio_row(ours, theirs, 1.0)]


def hugging_face(bench: Bench, dtype: str) -> Contender:
    """transformers laid over engine-torch's environment, without changing it."""
    bench.versions["transformers"] = TRANSFORMERS
    command = ["uv", "--quiet", "run", "--project", str(ROOT), "--package", "engine-torch", "--no-default-groups"]
    command += ["--with", f"transformers=={TRANSFORMERS}", "python", str(Path(__file__).with_name("hugging_face.py"))]
    settings = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    settings |= {"UV_PROJECT_ENVIRONMENT": str(ROOT / ".envs" / "engine-torch"), "HF_HUB_OFFLINE": "1"}
    return Contender(f"Hugging Face generate, {dtype}", "hugging-face", command, dtype, settings)


def load(bench: Bench) -> list[Row]:
    """torch:half from a warm page cache, against reading the file once; and what stays resident."""
    contender = bench.contender("torch", "half")
    reading, loading, resident = [], [], 0.0
    for _ in range(bench.rounds):
        begin = time.perf_counter()
        with bench.model.open("rb", buffering=0) as file:
            block = bytearray(16 * 2**20)
            while file.readinto(block):
                pass
        reading.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        with started(contender, bench.model, 128, bench.threads) as ready:
            stages = ready.loaded.stages
            loading.append(sum(ns for name, ns in stages.items() if name != "import") / 1e9)
            ready.ask(16, 2, 0)
            rollup = Path(f"/proc/{ready.child.pid}/smaps_rollup").read_text()
            pss = int(re.search(r"^Pss:\s+(\d+)", rollup, re.MULTILINE)[1]) * 1024  # type: ignore[index]
            resident = max(resident, pss / (2 * weight_elements(bench.model)))
    factor = statistics.median(loading) / statistics.median(reading)
    value = f"{factor:.2f} ({statistics.median(loading):.2f} ÷ {statistics.median(reading):.2f} s)"
    return [
        Row("torch:half load of the GGUF, cached ÷ reading the file once", value, "≤ 2", factor <= 2),
        Row("torch:half resident (PSS) ÷ bytes of the weights", f"{resident:.2f}", "≤ 1.3", resident <= 1.3),
    ]


def weight_elements(model: Path) -> int:
    return open_checkpoint(model).config.weight_elements()


PARTS = {
    "torch_load": load,
    "torch_optimized": torch_optimized,
    "torch_baseline": torch_baseline,
    "torch_chat": talking("torch", "half"),
}
