"""The same graph driven by ONNX Runtime GenAI: its generator owns the cache, the mask and the search.

GenAI's model builder is not used: it needs torch and transformers, and writes a second copy of the weights. Our graph
takes the inputs that GenAI gives; the description of the model that GenAI reads is written here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime_genai as og
from enginebench_models.checkpoint import Checkpoint
from enginebench_models.config import LlamaConfig
from enginebench_models.sampling import Choose

from engine_onnxruntime.account import account
from engine_onnxruntime.model import IDS, LOGITS, MASK, Style, llama_model, rotary_table
from engine_onnxruntime.session import CPU, FOLDER_KEY, LOG_ERRORS, Device, Method, Unsupported
from engine_onnxruntime.weights import Weights

FILE_NAME = "model.onnx"


def open_decoder(
    checkpoint: Checkpoint, weights: Weights, device: Device, method: Method, n_ctx: int, threads: int, folder: Path
) -> GenaiDecoder:
    """Raises Unsupported for weights that do not lie in a file, and for a device that this GenAI does not have."""
    if weights.values:
        raise Unsupported("GenAI reads weights from files as f32, f16 or bf16; use onnxruntime:default for this file")
    if device is not CPU and not og.is_cuda_available():
        raise Unsupported(f"device {device.name!r}: this onnxruntime-genai has none; onnxruntime-genai-cuda has it")
    config, max_length = checkpoint.config, n_ctx + 1  # the last id counts although it takes no place in the cache
    rotary = rotary_table(checkpoint.inverse_frequencies, max_length)
    style = Style(method.compute, weights.interleaved, masked=True)
    model = llama_model(config, rotary, style, weights.tensors).SerializeToString()
    folder.mkdir(parents=True, exist_ok=True)
    described = description(config, weights, device, method, max_length, threads, folder)
    (folder / "genai_config.json").write_text(json.dumps(described))
    return GenaiDecoder(folder, model, config, weights, method, n_ctx)


def description(
    config: LlamaConfig,
    weights: Weights,
    device: Device,
    method: Method,
    max_length: int,
    threads: int,
    folder: Path,
) -> dict[str, object]:
    """genai_config.json. No end-of-sequence id: a request has as many tokens as were asked for."""
    session_options: dict[str, object] = {
        "intra_op_num_threads": threads,
        "inter_op_num_threads": 1,
        "graph_optimization_level": method.optimisation,
        "enable_cpu_mem_arena": method.arena,
        "log_severity_level": LOG_ERRORS,
        "provider_options": [] if device is CPU else [{device.name: dict(device.options)}],
        FOLDER_KEY: os.path.relpath(weights.folder, folder),  # GenAI puts the folder of this description before it
    }
    decoder = {
        "session_options": session_options,
        "filename": FILE_NAME,
        "head_size": config.head_dim,
        "hidden_size": config.dim,
        "num_attention_heads": config.n_heads,
        "num_hidden_layers": config.n_layers,
        "num_key_value_heads": config.n_kv_heads,
        "inputs": {
            "input_ids": IDS,
            "attention_mask": MASK,
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": LOGITS,
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }
    model = {
        "type": "llama",
        "bos_token_id": 0,
        "eos_token_id": [],
        "pad_token_id": 0,
        "context_length": max_length,
        "vocab_size": config.vocab_size,
        "decoder": decoder,
    }
    return {"model": model, "search": {"max_length": max_length, "do_sample": False, "past_present_share_buffer": True}}


class GenaiDecoder:
    """`graph` is kept: GenAI 0.18 does not copy the bytes it is given."""

    def __init__(
        self, folder: Path, graph: bytes, config: LlamaConfig, weights: Weights, method: Method, n_ctx: int
    ) -> None:
        self.config = config
        self.n_ctx = n_ctx
        self.graph = graph
        described = og.Config(str(folder))
        described.add_model_data(FILE_NAME, graph)
        self.model = og.Model(described)
        self.generator = og.Generator(self.model, og.GeneratorParams(self.model))
        self.prefill([0])
        cached = np.asarray(self.generator.get_output("present.0.key"))  # [1, n_kv_heads, max_length, head_dim]
        self.held = account(config, weights, method, cached.dtype, cached.shape[2])

    def generate(self, prompt: Sequence[int], n_gen: int) -> Iterator[int]:
        self.prefill(prompt)
        for _ in range(n_gen):
            self.generator.generate_next_token()
            yield int(self.generator.get_next_tokens()[0])

    def sample(self, prompt: Sequence[int], n_gen: int, choose: Choose) -> Iterator[int]:
        """Drawn on the host, not by GenAI's search: as in every engine with a loop of its own."""
        self.prefill(prompt)
        for left in range(n_gen - 1, -1, -1):
            token = choose(self.read_logits())
            yield token
            if left:
                self.generator.append_tokens(np.array([token], np.int32))

    def score(self, tokens: Sequence[int], n_prefill: int) -> npt.NDArray[np.float32]:
        """float32 [len(tokens) - n_prefill + 1, vocab]: what follows the prefill and each token after it."""
        rows = np.empty((len(tokens) - n_prefill + 1, self.config.vocab_size), np.float32)
        self.prefill(tokens[:n_prefill])
        rows[0] = self.read_logits()
        for row, token in enumerate(tokens[n_prefill:], 1):
            self.generator.append_tokens(np.array([token], np.int32))
            rows[row] = self.read_logits()
        return rows

    def prefill(self, prompt: Sequence[int]) -> None:
        self.generator.rewind_to(0)
        self.generator.append_tokens(np.array(prompt, np.int32))

    def read_logits(self) -> npt.NDArray[np.float32]:
        """After the last token, [vocab]."""
        logits: npt.NDArray[np.float32] = np.asarray(self.generator.get_logits())[0, -1].astype(np.float32)
        return logits
