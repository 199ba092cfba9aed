"""The real builder, with no GPU: both networks, at the shapes of real models, for two compute capabilities."""

from __future__ import annotations

import zlib
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
from engine_tensorrt.precision import PRECISIONS
from enginebench_models.catalogue import entry
from enginebench_models.checkpoint import open_checkpoint
from enginebench_models.config import LlamaConfig
from enginebench_models.eight_bit import Quantised
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


def empty(name: str, shape: tuple[int, ...], style: Style) -> npt.NDArray[Any] | Quantised:
    """Zeros. A plan holds matrices that are equal once: for its size, use `filled`."""
    if len(shape) == 1:
        return np.zeros((1, *shape), np.float32)
    return np.zeros(shape, style.dtype)


def filled(name: str, shape: tuple[int, ...], style: Style) -> npt.NDArray[Any] | Quantised:
    """Numbers of no meaning, drawn in the type itself."""
    if len(shape) == 1:
        return np.ones((1, *shape), np.float32)
    draw = np.random.default_rng(zlib.crc32(name.encode())).integers
    if style.eight_bit and name.startswith("layers."):
        kind = {"int8": np.int8, "fp8": np.uint8}[style.eight_bit]
        return Quantised(draw(1, 100, shape, kind), np.full(shape[0], 1e-3, np.float32))
    return draw(0x3400, 0x3500, shape, np.uint16).view("uint16" if style.dtype == "bfloat16" else style.dtype)


def style_of(configuration: str, n_ctx: int, precision: str = "") -> Style:
    """As the engine chooses it."""
    settings = SETTINGS[configuration]
    chosen = PRECISIONS[precision or settings.precision]
    return Style(chosen.dtype, n_ctx, settings.captured and chosen.has_fused_attention, chosen.eight_bit)


def network_of(library: Library, config: LlamaConfig, style: Style, make: Any = empty) -> LlamaNetwork:
    network = library.trt.Builder(library.logger).create_network(0)
    frequencies = np.ones(config.head_dim // 2, np.float32)
    weights = {name: make(name, shape, style) for name, shape in expected_shapes(config).items()}
    return llama_network(library.trt, network, config, style, weights, frequencies)


@BOTH
@CAPABILITIES
@pytest.mark.parametrize("name", ["llama3-1b", "llama3-8b", pytest.param("llama3-70b", marks=pytest.mark.slow)])
def test_one_layer_of_a_real_model_builds(library: Library, configuration: str, capability: str, name: str) -> None:
    settings, config = SETTINGS[configuration], one_layer(name)
    made = network_of(library, config, style_of(configuration, N_CTX))
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
    made = make_network(open_checkpoint(models["tiny"]), style_of(configuration, 128))
    weights_bytes = held(library.trt, made, open_checkpoint(models["tiny"]).names()).weights_bytes
    assert built(library, made, settings.options, capability) > weights_bytes


@BOTH
@CAPABILITIES
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_builds_in_both_networks_and_8_bits_stay_8_bits(
    library: Library, make_network: Maker, models: dict[str, Path], configuration: str, capability: str, precision: str
) -> None:
    checkpoint, style = open_checkpoint(models["untied"]), style_of(configuration, 64, precision)
    made = make_network(checkpoint, style)
    account = held(library.trt, made, checkpoint.names())
    size = built(library, made, replace(SETTINGS[configuration].options, split_profiles=False), capability)
    assert account.weights_bytes < size < account.weights_bytes + 4_500_000  # a plan of this has 3.6 MB of kernels


@pytest.mark.parametrize("precision", ["bfloat16", "int8", "fp8"])
@pytest.mark.parametrize("name", ["llama3-1b", pytest.param("llama3-8b", marks=pytest.mark.slow)])
def test_one_layer_of_a_real_model_builds_in_other_precisions(library: Library, name: str, precision: str) -> None:
    config, style = one_layer(name), style_of("rtx", N_CTX, precision)
    made = network_of(library, config, style, filled)
    weights_bytes = held(library.trt, made, list(expected_shapes(config))).weights_bytes
    assert weights_bytes < built(library, made, SETTINGS["rtx"].options, "SM89") < 2 * weights_bytes


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


def test_a_gpu_that_has_no_fp8_is_named_by_the_builder(library: Library) -> None:
    made = network_of(library, one_layer("tiny"), style_of("rtx", 64, "fp8"), filled)
    with pytest.raises(BuildFailed, match=r"Cannot compile for target\(s\) sm86.*fp8_e4m3"):
        built(library, made, SETTINGS["rtx"].options, "SM86")


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
