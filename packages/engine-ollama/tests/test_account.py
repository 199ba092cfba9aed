"""The server's log as llama.cpp writes it, read for what is reported; and logs that do not say it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from engine_ollama import account
from engine_ollama.engine import OllamaEngine
from enginebench_models.checkpoint import open_checkpoint

PACKAGE = Path(__file__).parents[1]
GPU_LOG = """
msg="inference compute" id=GPU-0 library=CUDA compute=9.0 name=CUDA0 description="NVIDIA H200" libdirs=ollama,cuda_v13
load request="{Operation:commit FlashAttention:Enabled NumThreads:8 GPULayers:17}"
llama_model_loader: loaded meta data with 26 key-value pairs and 147 tensors
llama_model_loader: - type  f32:   34 tensors
llama_model_loader: - type q4_K:   96 tensors
llama_model_loader: - type q6_K:   17 tensors
load_tensors: loading model tensors, this can take a while... (mmap = true)
load_tensors:   CPU_Mapped model buffer size =   205.49 MiB
load_tensors:        CUDA0 model buffer size =   762.81 MiB
llama_context: flash_attn    = enabled
llama_kv_cache: size =    8.00 MiB (   256 cells,  16 layers,  1/1 seqs), K (f16):    4.00 MiB, V (f16):    4.00 MiB
llama_context:      CUDA0 compute buffer size =   254.50 MiB
llama_context:  CUDA_Host compute buffer size =     4.51 MiB
"""


def test_a_quantised_model_on_a_gpu_is_read_off_its_log(tiny: Path) -> None:
    """The log is written by hand after llama.cpp's formats; no such server has been run."""
    held = account.of(GPU_LOG, open_checkpoint(tiny))
    assert (held.weight_dtype, held.precision, held.kv_dtype) == ("q4_k,q6_k", "q4_k", "float16")
    assert (held.device, held.threads, held.flash_attention) == ("NVIDIA H200", 8, True)
    assert held.weights_bytes == round(205.49 * 2**20) + round(762.81 * 2**20)
    assert held.kv_cache_bytes == 8 << 20


def test_the_last_load_is_the_one_that_counts(tiny: Path) -> None:
    log = GPU_LOG + GPU_LOG.replace("NumThreads:8", "NumThreads:3").replace("8.00 MiB", "9.00 MiB")
    held = account.of(log, open_checkpoint(tiny))
    assert (held.threads, held.kv_cache_bytes) == (3, 9 << 20)


@pytest.mark.parametrize("missing", ["NumThreads", "model buffer size", "llama_kv_cache", "loaded meta data"])
def test_a_log_that_does_not_say_it_is_an_error(tiny: Path, missing: str) -> None:
    log = re.sub(f".*{missing}.*", "", GPU_LOG)
    with pytest.raises(account.NothingTold):
        account.of(log, open_checkpoint(tiny))


def test_the_table_in_pyproject_names_the_configurations_of_the_class() -> None:
    table = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["tool"]["enginebench"]["engine"]
    found = {name: facts["description"] for name, facts in table["configurations"].items()}
    assert found == dict(OllamaEngine.configurations)
    assert {name: facts["description"] for name, facts in table["options"].items()} == dict(OllamaEngine.options)
