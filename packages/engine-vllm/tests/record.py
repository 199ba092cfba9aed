"""Write recorded.json and recorded.npz: what the steps of a real vLLM hand over, for test_decoding.py.

    CPU_ENV/bin/python packages/engine-vllm/tests/record.py FOLDER        CPU_ENV: see cpu_build.py

The CPU build runs the same Python code above the worker as the other. The model is a synthetic one, made in FOLDER.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from cpu_build import arguments, prepare, unforced
from engine_vllm import settings
from enginebench_models.catalogue import entry
from enginebench_models.fidelity import probe_ids
from enginebench_models.synthesis import synthesise

HERE = Path(__file__).parent
CONFIG, N_GEN = entry("tiny").config, 4
PROMPT = probe_ids(CONFIG.vocab_size, 16)


def main(folder: Path) -> None:
    prepare(folder / "cache")
    import vllm
    from vllm.v1.engine.llm_engine import LLMEngine

    model = synthesise(CONFIG, folder / "model", "safetensors")
    facts = settings.Settings(model, CONFIG, "bfloat16", 64, eager=True)
    engine = LLMEngine.from_engine_args(vllm.EngineArgs(**arguments(facts)))
    steps = recorded_steps(engine)
    ids = asked(engine, steps, settings.greedy(N_GEN))
    scored = asked(engine, steps, unforced(N_GEN))
    np.savez_compressed(HERE / "recorded.npz", shown=np.concatenate([step.pop("logits") for step in scored]))
    origin = {"vllm": f"{vllm.__version__} (CPU build)", "date": datetime.now(UTC).date().isoformat()}
    record = {**origin, "prompt": PROMPT, "generate": ids, "score": scored}
    (HERE / "recorded.json").write_text(json.dumps(record) + "\n")


def recorded_steps(engine: Any) -> list[dict[str, Any]]:
    """Filled with what each call of the engine core's `get_output` returns."""
    steps: list[dict[str, Any]] = []
    get_output = engine.engine_core.get_output

    def recording() -> Any:
        outputs = get_output()
        steps.extend(plain(output) for output in outputs.outputs)
        return outputs

    engine.engine_core.get_output = recording
    return steps


def plain(output: Any) -> dict[str, Any]:
    reason = output.finish_reason
    step = {"ids": output.new_token_ids, "finished": None if reason is None else str(reason)}
    if output.new_logprobs is not None:
        named, values, ranks = output.new_logprobs[:3]
        step |= {"logits": np.stack([np.asarray(named, np.float32), np.asarray(values, np.float32)], axis=2)}
        step |= {"ranks": np.asarray(ranks).tolist()}
    return step


def asked(engine: Any, steps: list[dict[str, Any]], parameters: dict[str, Any]) -> list[dict[str, Any]]:
    from engine_vllm.decoding import Decoder

    steps.clear()
    list(Decoder(engine, 0)._request(PROMPT, parameters))
    return list(steps)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
