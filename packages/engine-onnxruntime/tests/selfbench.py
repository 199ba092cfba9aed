"""engine-onnxruntime against the fastest PyTorch (`just selfbench onnxruntime`)."""

from __future__ import annotations

from bench import Bench, Row, ratio_row


def onnxruntime(bench: Bench) -> list[Row]:
    default, genai, torch = bench.duel(
        bench.contender("onnxruntime", "default"),
        bench.contender("onnxruntime", "genai"),
        bench.contender("torch", "optimized"),
    )
    return [ratio_row(default, torch, 0.9), ratio_row(genai, torch, 0.9)]


PARTS = {"onnxruntime": onnxruntime}
