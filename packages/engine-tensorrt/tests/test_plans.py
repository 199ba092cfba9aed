"""The cache of plans, with real plans: what it finds, what it refuses, what it leaves behind."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from engine_tensorrt import plans
from engine_tensorrt.build import BuildFailed, Options, Sink, build_plan
from engine_tensorrt.library import Library, Unsupported
from engine_tensorrt.model import Style
from engine_tensorrt.plans import Key, network_digest, read_plan, write_plan
from engine_tensorrt.session import open_engine
from enginebench_models.checkpoint import open_checkpoint

from .conftest import Maker

OPTIONS = Options(compute_capability="SM89")
STYLE = Style("float16", 32, fused=True)
KEY = Key("network", "weights", "tensorrt_rtx 1.7", "GPU sm 8.9", asdict(OPTIONS))
FACTS = {"weights_bytes": 7}


@pytest.fixture(scope="session")
def serialized(library: Library, make_network: Maker, models: dict[str, Path]) -> bytes:
    made, data = make_network(open_checkpoint(models["untied"]), STYLE), bytearray()

    class Memory:
        def write(self, piece: bytes) -> int:
            data.extend(piece)
            return len(piece)

    build_plan(library, made, OPTIONS, Memory(), lambda fraction: None)
    return bytes(data)


@pytest.fixture
def kept(tmp_path: Path, serialized: bytes) -> Path:
    """A folder with one plan."""
    write_plan(tmp_path, KEY, lambda sink: pieces(sink, serialized), FACTS)
    return tmp_path


def pieces(sink: Sink, data: bytes) -> None:
    for start in range(0, len(data), 1 << 20):
        sink.write(data[start : start + (1 << 20)])


def test_what_was_written_is_read(kept: Path, serialized: bytes) -> None:
    plan = read_plan(kept, KEY)
    assert plan is not None
    assert bytes(plan.data) == serialized
    assert plan.facts == FACTS


def test_the_library_refuses_a_real_plan_without_a_gpu_in_its_own_words(kept: Path, library: Library) -> None:
    if Path("/proc/driver/nvidia/version").exists():
        pytest.skip("this machine has an NVIDIA driver")
    plan = read_plan(kept, KEY)
    assert plan is not None
    with pytest.raises(Unsupported, match=r"does not take the plan: .*CUDA driver"):
        open_engine(library, plan.data)


@pytest.mark.parametrize("field", ["network", "weights", "library", "device", "options"])
def test_another_key_finds_nothing(kept: Path, field: str) -> None:
    other = {"level": 3} if field == "options" else "another"
    assert read_plan(kept, replace(KEY, **{field: other})) is None
    assert read_plan(kept, KEY) is not None


def damage_middle(plan: Path, sidecar: Path) -> None:
    data = bytearray(plan.read_bytes())
    data[len(data) // 2] ^= 1
    plan.write_bytes(data)


def truncate(plan: Path, sidecar: Path) -> None:
    plan.write_bytes(plan.read_bytes()[:-1])


def empty(plan: Path, sidecar: Path) -> None:
    plan.write_bytes(b"")


def damage_sidecar(plan: Path, sidecar: Path) -> None:
    sidecar.write_text("{")


def forget_checksum(plan: Path, sidecar: Path) -> None:
    sidecar.write_text(json.dumps({"key": asdict(KEY), "facts": FACTS}))


def claim_another_key(plan: Path, sidecar: Path) -> None:
    stored = json.loads(sidecar.read_text())
    stored["key"]["device"] = "another"
    sidecar.write_text(json.dumps(stored))


@pytest.mark.parametrize("damage", [damage_middle, truncate, empty, damage_sidecar, forget_checksum, claim_another_key])
def test_a_damaged_plan_is_removed_and_not_used(kept: Path, damage: Any) -> None:
    damage(*plans.paths(kept, KEY))
    assert read_plan(kept, KEY) is None
    assert list(kept.iterdir()) == []


def test_a_plan_without_its_description_is_not_there(kept: Path) -> None:
    plans.paths(kept, KEY)[1].unlink()
    assert read_plan(kept, KEY) is None


def test_a_build_that_fails_leaves_what_was_there(kept: Path) -> None:
    before = sorted(kept.iterdir())

    def fail(sink: Sink) -> None:
        sink.write(b"half a plan")
        raise BuildFailed("no kernel")

    with pytest.raises(BuildFailed):
        write_plan(kept, KEY, fail, {})
    assert sorted(kept.iterdir()) == before
    assert read_plan(kept, KEY) is not None


def test_kernels_go_with_the_plan_they_were_compiled_for(kept: Path) -> None:
    plan = read_plan(kept, KEY)
    assert plan is not None
    plan.kernels.write_bytes(b"kernels")
    assert read_plan(kept, KEY) is not None
    assert plan.kernels.exists()
    write_plan(kept, KEY, lambda sink: pieces(sink, b"another"), {})
    assert not plan.kernels.exists()


def test_a_plan_is_replaced_whole(kept: Path) -> None:
    write_plan(kept, KEY, lambda sink: pieces(sink, b"another"), {"weights_bytes": 8})
    plan = read_plan(kept, KEY)
    assert plan is not None
    assert (bytes(plan.data), plan.facts) == (b"another", {"weights_bytes": 8})
    assert len(list(kept.iterdir())) == 2


@pytest.mark.parametrize("name", ["model", "weights", "eight_bit", "quantisation", "sixteen_bits"])
def test_the_digest_of_a_network_changes_with_style_and_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    digest = network_digest(STYLE)
    assert network_digest(STYLE) == digest
    assert network_digest(replace(STYLE, n_ctx=33)) != digest
    module, changed = getattr(plans, name), tmp_path / "changed.py"
    changed.write_text(Path(module.__file__).read_text() + "# changed\n")
    monkeypatch.setattr(module, "__file__", str(changed))
    assert network_digest(STYLE) != digest
