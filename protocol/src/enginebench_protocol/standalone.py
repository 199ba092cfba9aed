"""An engine as a command for people: describe, bench, generate, score, reproduce.

Every engine has these; none writes them. What depends on model files comes through the `Models` seam, because this
package knows no file format.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from .engine import Engine, Sampling
from .errors import EngineFailure
from .host import default_device, default_threads
from .local import BenchPlan, BenchResult, bench, load
from .messages import HOTTEST, PROTOCOL_VERSION
from .npy import write_matrix
from .prompts import prompt_ids
from .reproduce import reproduce
from .serve import load_class, timed_generate

EXIT_FAILED, EXIT_USAGE = 1, 2


class Models(Protocol):
    """What a command needs to know about model files."""

    def locate(self, name_or_path: str, weights: str) -> tuple[Path, str, str]:
        """(path, model name, "real" or "synthetic"). Raises ValueError subclasses with a remedy."""

    def encode(self, path: Path, text: str) -> list[int]: ...

    def decode(self, path: Path, ids: Sequence[int]) -> str: ...

    def probe(self, path: Path, n_prefill: int, n_decode: int) -> list[int]:
        """The token ids that the fidelity gate feeds."""

    def compare(
        self,
        path: Path,
        tokens: Sequence[int],
        n_prefill: int,
        logits_npy_path: Path,
        precision: str,
        top_logprobs: int = 0,
    ) -> dict[str, object]:
        """The fidelity of logits against the float32 reference: its numbers, `passed` and `reasons`."""


def command(engine_class: str, models_class: str | None, arguments: list[str]) -> int:
    """Parse, run, print. Returns the exit code: 0, 1 the engine failed, 2 wrong usage."""
    engine: Engine = load_class(engine_class)()
    options = _parser(engine).parse_args(arguments)
    models: Models | None = load_class(models_class)() if models_class else None
    try:
        _check_configuration(engine, options)
        return int(options.run(engine, models, options))
    except EngineFailure as failure:
        print(f"{engine.name}: {failure}", file=sys.stderr)
        return EXIT_USAGE if failure.code in ("unsupported", "bad-request", "bad-model") else EXIT_FAILED
    except ImportError as error:
        print(f"{engine.name}: a library is missing: {error}", file=sys.stderr)
        return EXIT_USAGE
    except (ValueError, OSError) as error:
        print(f"{engine.name}: {error}", file=sys.stderr)
        return EXIT_USAGE
    finally:
        engine.unload()


def _parser(engine: Engine) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"engine-{engine.name}", description=type(engine).__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)

    describe = verbs.add_parser("describe", help="what this engine is and can do")
    describe.add_argument("-o", "--output", choices=["text", "json"], default="text")
    describe.set_defaults(run=_describe)

    timed = verbs.add_parser("bench", help="time requests in this process")
    _add_case_options(timed, engine, n_prompt=128, n_gen=64)
    timed.add_argument("--iterations", type=_positive, default=5)
    timed.add_argument("--warmup", type=_not_negative, default=1)
    timed.add_argument("-o", "--output", choices=["text", "json"], default="text")
    timed.set_defaults(run=_bench)

    generate = verbs.add_parser("generate", help="generate tokens, greedily or at a temperature")
    _add_case_options(generate, engine, n_prompt=8, n_gen=32)
    generate.add_argument("--prompt", help="text; without it, --ids or --n-prompt random ids")
    generate.add_argument("--ids", help="prompt as token ids: 1,2,3")
    generate.add_argument("--temperature", type=_temperature, default=0.0, help="0: greedy; else drawn, by --seed")
    generate.set_defaults(run=_generate)

    score = verbs.add_parser("score", help="compare logits with the float32 reference")
    _add_case_options(score, engine, n_prompt=64, n_gen=64)
    score.set_defaults(run=_score)

    again = verbs.add_parser("reproduce", help="run a recorded case again, old and new side by side")
    again.add_argument("result", type=Path, help="result.json of a run")
    again.add_argument("--configuration", help="only this configuration")
    again.add_argument("--model", help="use this model file instead of the recorded name")
    again.set_defaults(run=_reproduce)
    return parser


def _add_case_options(parser: argparse.ArgumentParser, engine: Engine, n_prompt: int, n_gen: int) -> None:
    parser.add_argument("--model", default="llama3-1b", help="catalogue name, model file or directory")
    parser.add_argument("--weights", choices=["auto", "real", "synthetic"], default="auto")
    parser.add_argument("--configuration", default=next(iter(engine.configurations)))
    parser.add_argument("--n-prompt", type=_positive, default=n_prompt)
    parser.add_argument("--n-gen", type=_positive, default=n_gen)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--threads", type=_positive, default=default_threads())
    parser.add_argument("--seed", type=_not_negative, default=0)
    if engine.shards:
        parser.add_argument(
            "--shard", type=_positive, default=1, help="devices (on the CPU: ranks) that share the model"
        )
    for name, what in engine.options.items():
        parser.add_argument(f"--{engine.name}-{name}", dest=f"option_{name}", help=what)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def _not_negative(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is below 0")
    return value


def _temperature(text: str) -> float:
    value = float(text)
    if not 0 <= value <= HOTTEST:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and {HOTTEST:g}")
    return value


def _check_configuration(engine: Engine, options: argparse.Namespace) -> None:
    name = getattr(options, "configuration", None)
    if name is not None and name not in engine.configurations:
        raise ValueError(f"unknown configuration {name!r}: {engine.name} has {', '.join(engine.configurations)}")


def _describe(engine: Engine, models: Models | None, options: argparse.Namespace) -> int:
    if options.output == "json":
        facts = {
            "engine": engine.name,
            "protocol": PROTOCOL_VERSION,
            "python": sys.version.split()[0],
            "configurations": dict(engine.configurations),
        }
        print(json.dumps(facts, indent=2))
        return 0
    print(f"{engine.name}  (protocol {PROTOCOL_VERSION}, python {sys.version.split()[0]})")
    for name, what in engine.configurations.items():
        print(f"  {engine.name}:{name:<12} {what}")
    return 0


def _bench(engine: Engine, models: Models | None, options: argparse.Namespace) -> int:
    path, model, weights = _locate(models, options.model, options.weights)
    plan = _plan(path, options, n_ctx=options.n_prompt + options.n_gen)
    result = bench(engine, plan, _print_progress)
    if options.output == "json":
        print(json.dumps(_bench_json(plan, model, weights, result), indent=2))
    else:
        _print_bench(engine, plan, model, weights, result)
    return 0


def _generate(engine: Engine, models: Models | None, options: argparse.Namespace) -> int:
    path, _, _ = _locate(models, options.model, options.weights)
    prompt = _given_prompt(models, path, options)
    plan = _plan(path, options, n_ctx=(len(prompt) if prompt else options.n_prompt) + options.n_gen)
    with tempfile.TemporaryDirectory(prefix="enginebench-") as scratch:
        loaded = load(engine, plan, Path(scratch), _print_progress)
        prompt = prompt or prompt_ids(options.seed, 0, options.n_prompt, loaded.vocab_size)
        sampling = Sampling(options.temperature, options.seed)
        tokens, _, _ = timed_generate(engine, prompt, options.n_gen, sampling)
    as_text = models is not None and options.prompt is not None
    print(models.decode(path, tokens) if as_text and models else ",".join(map(str, tokens)))
    return 0


def _given_prompt(models: Models | None, path: Path, options: argparse.Namespace) -> array[int] | None:
    if options.ids:
        return _parsed_ids(options.ids)
    if options.prompt is not None:
        if models is None:
            raise ValueError("this engine has no tokenizer: give --ids")
        return array("i", models.encode(path, options.prompt))
    return None


def _parsed_ids(text: str) -> array[int]:
    try:
        return array("i", (int(i) for i in text.split(",")))
    except (ValueError, OverflowError):
        raise ValueError(f"--ids {text!r}: give token ids with commas between them, like 1,2,3") from None


def _score(engine: Engine, models: Models | None, options: argparse.Namespace) -> int:
    if models is None:
        raise ValueError("this engine has no model files: nothing to compare with")
    path, _, _ = _locate(models, options.model, options.weights)
    plan = _plan(path, options, n_ctx=options.n_prompt + options.n_gen)
    tokens = models.probe(path, options.n_prompt, options.n_gen)
    with tempfile.TemporaryDirectory(prefix="enginebench-") as scratch:
        loaded = load(engine, plan, Path(scratch), _print_progress)
        logits = Path(scratch) / "logits.npy"
        write_matrix(logits, engine.score(array("i", tokens), options.n_prompt))
        fidelity = models.compare(path, tokens, options.n_prompt, logits, loaded.precision, loaded.top_logprobs)
    print(json.dumps(fidelity, indent=2))
    return 0 if fidelity["passed"] else EXIT_FAILED


def _reproduce(engine: Engine, models: Models | None, options: argparse.Namespace) -> int:
    def locate(name: str, weights: str) -> Path:
        return _locate(models, options.model or name, "auto" if options.model else weights)[0]

    lines = reproduce(engine, options.result, options.configuration, locate, _print_progress)
    print("\n".join(lines))
    return 0


def _locate(models: Models | None, model: str, weights: str) -> tuple[Path, str, str]:
    return models.locate(model, weights) if models else (Path(model), model, weights)


def _plan(path: Path, options: argparse.Namespace, n_ctx: int) -> BenchPlan:
    return BenchPlan(
        configuration=options.configuration,
        model_path=path,
        device=default_device() if options.device == "auto" else options.device,
        threads=options.threads,
        n_ctx=n_ctx,
        n_prompt=options.n_prompt,
        n_gen=options.n_gen,
        warmup=getattr(options, "warmup", 0),
        iterations=getattr(options, "iterations", 1),
        seed=options.seed,
        options=_engine_options(options),
        shards=getattr(options, "shard", 1),
    )


def _engine_options(options: argparse.Namespace) -> dict[str, str]:
    given = {name.removeprefix("option_"): value for name, value in vars(options).items() if name.startswith("option_")}
    return {name: value for name, value in given.items() if value is not None}


def _print_progress(stage: str, fraction: float) -> None:
    if sys.stderr.isatty():
        print(f"\r{stage} {fraction:4.0%} ", end="\n" if fraction >= 1 else "", file=sys.stderr, flush=True)


def _bench_json(plan: BenchPlan, model: str, weights: str, result: BenchResult) -> dict[str, object]:
    loaded = result.loaded
    return {
        "configuration": plan.configuration,
        "model": model,
        "weights": weights,
        "device": loaded.device,
        "threads": loaded.threads,
        "weight_dtype": loaded.weight_dtype,
        "n_prompt": plan.n_prompt,
        "n_gen": plan.n_gen,
        "versions": loaded.versions,
        "metrics": result.summary(),
        "requests": [
            {"ttft_ns": t.ttft_ns, "itl_ns": t.itl_ns, "e2e_ns": t.e2e_ns} for t in result.warmup + result.measured
        ],
    }


def _print_bench(engine: Engine, plan: BenchPlan, model: str, weights: str, result: BenchResult) -> None:
    loaded, numbers = result.loaded, result.summary()
    print(f"{engine.name}:{plan.configuration}  {model} ({weights} weights)  pp{plan.n_prompt}+tg{plan.n_gen}")
    print(f"  {loaded.device}, {loaded.threads} threads, weights {loaded.weight_dtype}, KV {loaded.kv_dtype}")
    print(f"  load         {(numbers['load_ns'] or 0) / 1e9:9.2f} s")
    print(f"  cold TTFT    {(numbers['first_request_ttft_ns'] or 0) / 1e6:9.1f} ms")
    print(
        f"  TTFT         {(numbers['ttft_ns'] or 0) / 1e6:9.1f} ms   prefill {numbers['prefill_tps'] or 0:9.1f} tok/s"
    )
    if numbers["tpot_ns"]:
        print(f"  TPOT         {numbers['tpot_ns'] / 1e6:9.2f} ms   decode  {numbers['decode_tps'] or 0:9.2f} tok/s")
    print(f"  median of {len(result.measured)} requests in one process: no verdict should rest on it")
