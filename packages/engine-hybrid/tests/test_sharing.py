"""One memory for both libraries: the same addresses, writes seen on the other side, nothing held twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def settled(loader: Any, models: Callable[[str], Path]) -> None:
    loader.llama(models("tiny"))  # tinygrad may be imported from here on


def address(view: Any) -> int:
    return int(view.uop.buffer._buf.va_addr)


def resident_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int32])
def test_a_view_has_the_address_and_the_values_of_the_tensor(dtype: torch.dtype) -> None:
    from engine_hybrid.sharing import shared

    tensor = torch.arange(24).view(4, 6).to(dtype)
    view = shared(tensor)
    assert address(view) == tensor.data_ptr()
    assert view.shape == (4, 6)
    assert view.float().tolist() == tensor.float().tolist()


def test_a_write_on_either_side_is_seen_on_the_other() -> None:
    from engine_hybrid.sharing import finish, shared

    tensor = torch.zeros(5)
    view = shared(tensor)
    tensor.fill_(3)
    assert (view + 0).tolist() == [3.0] * 5
    view.assign(view * 2 + 1).realize()
    finish("CPU")
    assert tensor.tolist() == [7.0] * 5
    assert address(view) == tensor.data_ptr(), "the result was written in place"


def test_a_tensor_at_any_address_is_read_right() -> None:
    """Tensors in a safetensors file start at any multiple of 8 bytes; tinygrad's vector loads want more by default."""
    from engine_hybrid.sharing import finish, shared

    room = torch.zeros(4096 + 64, dtype=torch.float16)
    offset = (-room.data_ptr() % 64) // 2 + 4  # 8 bytes behind a multiple of 64
    tensor = room[offset : offset + 4096].view(64, 64)
    tensor.copy_(torch.arange(4096).view(64, 64) % 7)
    target = torch.zeros(room.shape)[4 : 4 + 64]
    shared(target).assign(shared(tensor).float().sum(1)).realize()
    finish("CPU")
    assert target.tolist() == tensor.float().sum(1).tolist()


def test_a_tensor_with_gaps_is_refused() -> None:
    from engine_hybrid.sharing import shared

    with pytest.raises(ValueError, match="not contiguous"):
        shared(torch.zeros(4, 6)[:, :3])


def test_sharing_takes_no_memory() -> None:
    from engine_hybrid.sharing import shared
    from tinygrad.helpers import GlobalCounters

    tensor = torch.ones(64 << 20)  # 256 MiB
    resident, allocated = resident_bytes(), GlobalCounters.mem_used
    view = shared(tensor)
    assert view.sum().item() == tensor.numel()
    assert resident_bytes() - resident < 16 << 20
    assert GlobalCounters.mem_used - allocated < 1 << 20


def test_a_copy_would_be_noticed() -> None:
    """Negative control of the test above."""
    from engine_hybrid.sharing import shared

    tensor = torch.ones(64 << 20)
    resident = resident_bytes()
    copy = (shared(tensor) + 1).realize()
    assert copy[0].item() == 2
    assert resident_bytes() - resident > 200 << 20


def test_weights_lie_in_the_mapped_file_for_both(loader: Any, models: Callable[[str], Path]) -> None:
    from engine_hybrid.tinygrad_regions import Shared
    from enginebench_models.checkpoint import open_checkpoint

    path = models("tiny")
    llama = loader.llama(path)
    views = Shared(llama, lanes=64)
    mapped = [line.split()[0] for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    ranges = [tuple(int(end, 16) for end in span.split("-")) for span in mapped]
    for name in ("v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"):  # Q and K are reordered: copies
        weight = getattr(llama.weights.layers[1], name)
        assert address(getattr(views.layers[1], name)) == weight.data_ptr()
        assert any(begin <= weight.data_ptr() < end for begin, end in ranges), name
    assert address(views.lm_head) == llama.weights.embed_tokens.data_ptr()
    assert open_checkpoint(path).config.tied_embeddings


@pytest.mark.gpu
def test_on_cuda_both_share_one_context_and_see_each_others_writes() -> None:
    from engine_hybrid.sharing import join_context, shared

    join_context()
    tensor = torch.zeros(5, device="cuda")
    view = shared(tensor)
    assert view.uop.buffer._buf.value == tensor.data_ptr()
    tensor.fill_(3)
    view.assign(view * 2 + 1).realize()
    assert (tensor + 0).tolist() == [7.0] * 5
