"""The real builder, with no GPU: both networks, at the shapes of real models, for two compute capabilities."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from engine_tensorrt.account import held, layers
from engine_tensorrt.build import BuildFailed, Options, build_plan, profiles
from engine_tensorrt.engine import SETTINGS
from engine_tensorrt.library import FULL, Library, Unsupported
from engine_tensorrt.model import LlamaNetwork, Style, llama_network
from enginebench_models.catalogue import entry
from enginebench_models.checkpoint import open_checkpoint
from enginebench_models.config import LlamaConfig
from enginebench_models.layout import expected_shapes

from .conftest import Maker

N_CTX = 640
BOTH = pytest.mark.parametrize("configuration", ["basic", "rtx"])
CAPABILITIES = pytest.mark.parametrize("capability", ["SM89", "SM120"])


class Counter:
    """Throws a plan away and says how long it was."""

    def __init__(self) -> None:
        self.n_bytes = 0

    def write(self, data: bytes) -> int:
        self.n_bytes += len(data)
        return len(data)


def built(library: Library, made: LlamaNetwork, options: Options, capability: str) -> int:
    """Bytes of the plan."""
    sink = Counter()
    build_plan(library, made, replace(options, compute_capability=capability), sink, lambda fraction: None)
    return sink.n_bytes


def one_layer(name: str) -> LlamaConfig:
    """The tables are left small: what the builder does with a layer does not depend on them."""
    return replace(entry(name).config, n_layers=1, vocab_size=512)


def empty_weights(config: LlamaConfig, dtype: str) -> dict[str, npt.NDArray[Any]]:
    shapes = expected_shapes(config)
    return {n: np.zeros(s, dtype) if len(s) > 1 else np.zeros((1, *s), np.float32) for n, s in shapes.items()}


def network_of(library: Library, config: LlamaConfig, style: Style) -> LlamaNetwork:
    network = library.trt.Builder(library.logger).create_network(0)
    frequencies = np.ones(config.head_dim // 2, np.float32)
    return llama_network(library.trt, network, config, style, empty_weights(config, style.dtype), frequencies)


@BOTH
@CAPABILITIES
@pytest.mark.parametrize("name", ["llama3-1b", "llama3-8b", pytest.param("llama3-70b", marks=pytest.mark.slow)])
def test_one_layer_of_a_real_model_builds(library: Library, configuration: str, capability: str, name: str) -> None:
    settings, config = SETTINGS[configuration], one_layer(name)
    made = network_of(library, config, Style(settings.dtype, N_CTX, fused=settings.captured))
    assert held(library.trt, made, list(expected_shapes(config))).parameters == config.weight_elements()
    kinds = library.trt.LayerType
    products = [tuple(layer.get_input(1).shape) for layer in layers(made.network, kinds.MATRIX_MULTIPLY)]
    kv, query, dim, hidden = config.kv_dim(), config.query_dim(), config.dim, config.hidden_dim
    of_weights = [shape for shape in products if len(shape) == 2]
    assert of_weights == [
        (query, dim), (kv, dim), (kv, dim), (dim, query), (hidden, dim), (hidden, dim), (dim, hidden), (512, dim),
    ]  # fmt: skip
    assert built(library, made, settings.options, capability) > 0


@BOTH
@CAPABILITIES
def test_the_whole_tiny_model_builds_with_its_weights_in_the_plan(
    library: Library, make_network: Maker, models: dict[str, Path], configuration: str, capability: str
) -> None:
    settings = SETTINGS[configuration]
    made = make_network(open_checkpoint(models["tiny"]), Style(settings.dtype, 128, fused=settings.captured))
    weights_bytes = held(library.trt, made, open_checkpoint(models["tiny"]).names()).weights_bytes
    assert built(library, made, settings.options, capability) > weights_bytes


@pytest.mark.parametrize("head_dim", [48, 64, 128])
def test_fused_attention_finds_a_dedicated_kernel_in_models_of_several_layers(library: Library, head_dim: int) -> None:
    """As booleans the mask failed at 48 and 128, and not with one layer only."""
    config = replace(one_layer("tiny"), n_layers=3, head_dim=head_dim)
    made = network_of(library, config, Style("float16", 64, fused=True))
    assert built(library, made, SETTINGS["rtx"].options, "SM89") > 0


def test_a_network_that_cannot_be_built_is_refused_in_the_builders_words(library: Library) -> None:
    made = network_of(library, one_layer("tiny"), Style("float32", 64, fused=True))
    with pytest.raises(BuildFailed, match="not supported by a dedicated kernel"):
        built(library, made, Options(), "SM89")
    assert library.errors() == "without a word"  # nothing is left for the next failure


def test_the_full_library_builds_for_this_machine_only(library: Library) -> None:
    made = network_of(library, one_layer("tiny"), Style("float32", 64, fused=False))
    with pytest.raises(Unsupported, match="for the GPU of this machine only, not for SM89"):
        built(replace(library, name=FULL), made, Options(), "SM89")


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
@pytest.mark.parametrize("remembered", [None, b"", b"of another library"])
def test_the_full_library_remembers_how_fast_kernels_were(
    library: Library, tmp_path: Path, remembered: bytes | None
) -> None:
    """With the calls of the RTX library, which has them and does nothing."""
    timings = tmp_path / "tensorrt" / "timings"
    if remembered is not None:
        timings.parent.mkdir()
        timings.write_bytes(remembered)
    made = network_of(library, one_layer("tiny"), Style("float32", 64, fused=False))
    full = replace(library, name=FULL)
    build_plan(full, made, Options(), Counter(), lambda fraction: None, timings)
    assert timings.stat().st_size > len(remembered or b"")
    assert [file.name for file in timings.parent.iterdir()] == ["timings"]


def test_the_rtx_library_has_no_timings_to_remember(library: Library, tmp_path: Path) -> None:
    made = network_of(library, one_layer("tiny"), Style("float32", 64, fused=False))
    build_plan(library, made, Options(), Counter(), lambda fraction: None, tmp_path / "timings")
    assert list(tmp_path.iterdir()) == []


def test_float32_means_float32_and_one_stream(library: Library) -> None:
    from engine_tensorrt.build import configure

    config = library.trt.Builder(library.logger).create_builder_config()
    assert config.get_flag(library.trt.BuilderFlag.TF32)  # the library's default
    configure(library, config, SETTINGS["rtx"].options)
    assert not config.get_flag(library.trt.BuilderFlag.TF32)
    assert (config.max_aux_streams, config.builder_optimization_level) == (0, 5)


def test_profiles_cover_every_prompt_and_decoding_has_its_own() -> None:
    assert profiles(640, Options()) == [(1, 320, 640)]
    assert profiles(640, Options(split_profiles=True)) == [(1, 320, 640), (1, 1, 1)]
    assert profiles(1, Options(split_profiles=True)) == [(1, 1, 1), (1, 1, 1)]
