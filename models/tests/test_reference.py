"""The reference against a second one, written from the definitions: one position and one head at a time, float64."""

from pathlib import Path

import numpy as np
import pytest
from enginebench_models.checkpoint import Checkpoint, open_checkpoint
from enginebench_models.config import LlamaConfig
from enginebench_models.fidelity import probe_ids
from enginebench_models.reference import KvCache, Reference, silu
from enginebench_models.reference_cache import reference_logits
from enginebench_models.synthesis import synthesise


class Slow:
    """Float64, no batching: every product as in the LLaMA paper."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.config = checkpoint.config
        self.weights = {name: checkpoint.tensor(name).float32().astype(np.float64) for name in checkpoint.names()}
        self.frequencies = checkpoint.inverse_frequencies.astype(np.float64)

    def logits(self, ids: list[int]) -> np.ndarray:
        w, config = self.weights, self.config
        stream = [w["embed_tokens"][token] for token in ids]
        for layer in range(config.n_layers):
            stream = self.block(stream, f"layers.{layer}.")
        head = w["embed_tokens"] if config.tied_embeddings else w["lm_head"]
        return np.array([head @ self.norm(x, w["norm"]) for x in stream])

    def block(self, stream: list[np.ndarray], prefix: str) -> list[np.ndarray]:
        w = {name.removeprefix(prefix): value for name, value in self.weights.items() if name.startswith(prefix)}
        normed = [self.norm(x, w["input_layernorm"]) for x in stream]
        stream = [x + w["self_attn.o_proj"] @ self.attend(normed, t, w) for t, x in enumerate(stream)]
        result = []
        for x in stream:
            n = self.norm(x, w["post_attention_layernorm"])
            gate = w["mlp.gate_proj"] @ n
            result.append(x + w["mlp.down_proj"] @ (gate / (1 + np.exp(-gate)) * (w["mlp.up_proj"] @ n)))
        return result

    def attend(self, normed: list[np.ndarray], t: int, w: dict[str, np.ndarray]) -> np.ndarray:
        d, group = self.config.head_dim, self.config.n_heads // self.config.n_kv_heads
        outputs = []
        for head in range(self.config.n_heads):
            own, shared = slice(head * d, head * d + d), slice(head // group * d, head // group * d + d)
            query = self.rotate(w["self_attn.q_proj"][own] @ normed[t], t)
            scores = [query @ self.rotate(w["self_attn.k_proj"][shared] @ normed[s], s) / d**0.5 for s in range(t + 1)]
            shares = np.exp(scores) / np.exp(scores).sum()
            outputs.append(sum(a * (w["self_attn.v_proj"][shared] @ normed[s]) for s, a in enumerate(shares)))
        return np.concatenate(outputs)

    def rotate(self, x: np.ndarray, position: int) -> np.ndarray:
        half = len(x) // 2
        turned = (x[:half] + 1j * x[half:]) * np.exp(1j * position * self.frequencies)
        return np.concatenate([turned.real, turned.imag])

    def norm(self, x: np.ndarray, gain: np.ndarray) -> np.ndarray:
        return x / np.sqrt(np.mean(x * x) + self.config.norm_eps) * gain


@pytest.fixture(scope="module", params=["tiny", "odd"])
def checkpoint(
    request: pytest.FixtureRequest, odd_config: LlamaConfig, tmp_path_factory: pytest.TempPathFactory
) -> Checkpoint:
    if request.param == "tiny":
        return open_checkpoint(request.getfixturevalue("tiny_gguf"))
    return open_checkpoint(synthesise(odd_config, tmp_path_factory.mktemp("odd") / "odd.gguf"))


def test_it_agrees_with_the_definitions(checkpoint: Checkpoint) -> None:
    ids = probe_ids(checkpoint.config.vocab_size, 12)
    assert np.abs(Reference(checkpoint).logits(ids) - Slow(checkpoint).logits(ids)).max() < 1e-4


def test_prefill_and_cached_decode_are_the_same_computation(checkpoint: Checkpoint) -> None:
    ids = probe_ids(checkpoint.config.vocab_size, 40)
    reference, cache = Reference(checkpoint), KvCache(checkpoint.config)
    hidden = [reference.forward(ids[:30], cache), *(reference.forward([token], cache) for token in ids[30:])]
    assert len(cache) == 40
    assert np.abs(reference.output(np.concatenate(hidden)) - reference.logits(ids)).max() < 1e-4


def test_only_the_wanted_positions_are_returned_in_their_order(checkpoint: Checkpoint) -> None:
    ids = probe_ids(checkpoint.config.vocab_size, 10)
    reference = Reference(checkpoint)
    some = reference.logits(ids, [9, 3])
    assert some.shape == (2, checkpoint.config.vocab_size)
    assert np.abs(some - reference.logits(ids)[[9, 3]]).max() < 1e-5


def test_later_tokens_do_not_change_earlier_logits(checkpoint: Checkpoint) -> None:
    ids = probe_ids(checkpoint.config.vocab_size, 10)
    reference = Reference(checkpoint)
    assert np.abs(reference.logits([*ids[:9], 7])[:9] - reference.logits(ids)[:9]).max() < 1e-5


def test_silu_neither_overflows_nor_loses_its_tails() -> None:
    assert silu(np.array([-1e4, -20.0, 0.0, 1.0, 1e4], np.float32)).tolist() == pytest.approx(
        [0.0, -20 * np.exp(-20.0), 0.0, 1 / (1 + np.exp(-1.0)), 1e4], rel=1e-6, abs=1e-30
    )


def test_reference_logits_are_kept_on_disk_by_model_and_probe(tiny: Checkpoint, tmp_path: Path) -> None:
    ids = probe_ids(tiny.config.vocab_size, 12)
    first = reference_logits(tiny, ids, 8, tmp_path)
    assert np.array_equal(first, Reference(tiny).logits(ids, range(7, 12)))
    kept = list(tmp_path.iterdir())
    assert len(kept) == 1
    written = kept[0].stat().st_mtime_ns
    assert np.array_equal(reference_logits(tiny, ids, 8, tmp_path), first)
    assert kept[0].stat().st_mtime_ns == written
    reference_logits(tiny, ids, 9, tmp_path)
    reference_logits(tiny, ids[::-1], 8, tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
