"""Hugging Face `generate`, eager, as a contender: the same weights, ids and clock as every engine of the suite.

Run in engine-torch's environment with transformers laid over it. Not an engine of the suite: a yardstick.
"""

from __future__ import annotations

import queue
import threading
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from enginebench_models.checkpoint import open_checkpoint
from enginebench_models.config import LlamaConfig
from enginebench_protocol.engine import GREEDY, Engine, Logits, MemoryAccount, ProgressSink, Sampling, must_be_greedy
from enginebench_protocol.errors import EngineFailure
from enginebench_protocol.main import run
from enginebench_protocol.messages import Load, Loaded
from transformers import LlamaConfig as HfConfig
from transformers import LlamaForCausalLM
from transformers.generation.streamers import BaseStreamer

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class TokenQueue(BaseStreamer):
    """Hands ids from the thread that generates to the one that stamps. The prompt comes first and is dropped."""

    def __init__(self) -> None:
        self.ids: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        if self._prompt_seen:
            self.ids.put(int(value))
        self._prompt_seen = True

    def end(self) -> None:
        """Nothing to flush."""


class HuggingFace(Engine):
    """LlamaForCausalLM.generate, eager."""

    name = "hugging-face"
    configurations: ClassVar[Mapping[str, str]] = {name: f"{name}, eager" for name in DTYPES}

    def load(self, request: Load, progress: ProgressSink) -> Loaded:
        torch.set_num_threads(request.threads)
        checkpoint = open_checkpoint(Path(request.model_path))
        dtype = DTYPES[request.configuration]
        with torch.device("meta"):
            self.model = LlamaForCausalLM(hf_config(checkpoint.config))
        state = {hf_name(name): torch.from_numpy(checkpoint.tensor(name).float32().copy()).to(dtype)
                 for name in checkpoint.names()}  # fmt: skip
        if checkpoint.config.tied_embeddings:
            state["lm_head.weight"] = state["model.embed_tokens.weight"]
        self.model.load_state_dict(state, assign=True)
        self.model.model.rotary_emb = type(self.model.model.rotary_emb)(self.model.config)
        self.model.eval()
        n_bytes = 2 * checkpoint.config.weight_elements() * (2 if dtype is torch.float32 else 1)
        return Loaded(
            id=request.id,
            weights_fingerprint=checkpoint.fingerprint,
            precision="float32" if dtype is torch.float32 else "16-bit",
            weight_dtype=request.configuration,
            activation_dtype=request.configuration,
            kv_dtype=request.configuration,
            device="cpu",
            threads=request.threads,
            n_ctx=request.n_ctx,
            vocab_size=checkpoint.config.vocab_size,
            weights_bytes=n_bytes,
            kv_cache_bytes=0,
            read_bytes_per_token=n_bytes,
            stages={},
            versions={"torch": str(torch.__version__)},
        )

    def generate(self, prompt: array[int], n_gen: int, sampling: Sampling = GREEDY) -> Iterator[int]:
        must_be_greedy(sampling, "a yardstick of speed only")
        stream = TokenQueue()
        options: dict[str, Any] = {"do_sample": False, "min_new_tokens": n_gen, "max_new_tokens": n_gen}
        ids = torch.tensor([list(prompt)])
        work = threading.Thread(target=self._generate, args=(ids, stream, options))
        work.start()
        for _ in range(n_gen):
            yield stream.ids.get()
        work.join()

    @torch.inference_mode()
    def _generate(self, ids: torch.Tensor, stream: TokenQueue, options: dict[str, Any]) -> None:
        mask = torch.ones_like(ids)
        self.model.generate(ids, attention_mask=mask, streamer=stream, pad_token_id=0, **options)

    def score(self, tokens: array[int], n_prefill: int) -> Logits:
        raise EngineFailure("unsupported", "a yardstick of speed only")

    def memory(self) -> MemoryAccount:
        raise EngineFailure("unsupported", "a yardstick of speed only")

    def unload(self) -> None:
        del self.model


def hf_config(config: LlamaConfig) -> HfConfig:
    scaling = config.rope_scaling
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if scaling is not None:
        rope |= {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context,
        }
    return HfConfig(
        hidden_size=config.dim,
        intermediate_size=config.hidden_dim,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads,
        num_key_value_heads=config.n_kv_heads,
        head_dim=config.head_dim,
        vocab_size=config.vocab_size,
        rms_norm_eps=config.norm_eps,
        max_position_embeddings=config.max_context,
        tie_word_embeddings=config.tied_embeddings,
        rope_parameters=rope,
        bos_token_id=None,
        eos_token_id=None,
    )


def hf_name(name: str) -> str:
    return f"{name}.weight" if name == "lm_head" else f"model.{name}.weight"


if __name__ == "__main__":
    run("__main__:HuggingFace")
