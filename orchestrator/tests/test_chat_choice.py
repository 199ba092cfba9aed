"""Which engine answers, how many may live at once, one that dies between answers, and why an answer ended."""

from __future__ import annotations

from array import array
from pathlib import Path

import pytest
from enginebench.chat.choice import Choice, choose
from enginebench.chat.living_engine import EngineDied, LivingEngine
from enginebench.chat.partner import Partner
from enginebench.chat.room import OVERHEAD_BYTES, fit_together, needed_bytes
from enginebench.chat.settings import Settings
from enginebench.chat.turn import turn_of
from enginebench.errors import UsageError
from enginebench.workspace.discovery import Configuration, EngineInfo, discover
from enginebench_models.catalogue import entry
from enginebench_protocol.client import Received
from enginebench_protocol.codec import pack_ids, pack_times
from enginebench_protocol.messages import Generated

CONFIG = entry("llama3-1b").config


def engine(name: str, *, chat: str = "", gpu: str = "optional", role: str = "engine", folder: Path) -> EngineInfo:
    return EngineInfo(
        name=name,
        module=name,
        description="",
        role=role,  # type: ignore[arg-type]
        formats=["gguf"],
        gpu=gpu,  # type: ignore[arg-type]
        aliases=[f"py{name}"],
        chat=chat,
        configurations={
            "full": Configuration("", "float32"),
            "q4": Configuration("", "q4_0", in_all=False, quantisation="q4_0"),
            "half": Configuration("", "16-bit"),
        },
        package=f"engine-{name}",
        folder=str(folder),
    )


@pytest.fixture
def engines(tmp_path: Path) -> dict[str, EngineInfo]:
    listed = [
        engine("first", folder=tmp_path),
        engine("second", chat="full", folder=tmp_path),
        engine("device", gpu="required", chat="half", folder=tmp_path),
        engine("limit", role="instrument", folder=tmp_path),
    ]
    return {info.name: info for info in listed}


def test_an_engine_answers_in_16_bits_unless_its_table_says_otherwise(engines: dict[str, EngineInfo]) -> None:
    assert choose("first", "cpu", engines).label == "first:half"
    assert choose("second", "cpu", engines).label == "second:full"
    assert choose("pyfirst:q4", "cpu", engines).label == "first:q4"


def test_without_a_name_an_engine_is_taken_whose_table_speaks_of_chat_and_that_runs_here(
    engines: dict[str, EngineInfo],
) -> None:
    assert choose(None, "cpu", engines).label == "second:full"
    assert choose(None, "cpu").info.role == "engine"


def test_a_wrong_name_gets_a_near_match(engines: dict[str, EngineInfo]) -> None:
    with pytest.raises(UsageError, match="'frist': did you mean 'first'"):
        choose("frist", "cpu", engines)
    with pytest.raises(UsageError, match="configuration of first 'hlaf': did you mean 'half'"):
        choose("first:hlaf", "cpu", engines)
    with pytest.raises(UsageError, match="unknown engine 'limit'"):
        choose("limit", "cpu", engines)
    with pytest.raises(UsageError, match="device:half cannot run here: it needs an NVIDIA GPU"):
        choose("device", "cpu", engines)


def test_the_tables_of_the_engines_name_configurations_that_exist() -> None:
    named = {info.chat for info in discover().values() if info.chat}
    assert named
    assert all(not info.chat or info.chat in info.configurations for info in discover().values())


def test_several_engines_live_at_once_only_where_all_of_them_fit(engines: dict[str, EngineInfo]) -> None:
    half, full = Choice(engines["first"], "half"), Choice(engines["first"], "full")
    one = needed_bytes(half, CONFIG, 2_500_000_000, 4096)
    assert one == 2_500_000_000 + 4096 * CONFIG.kv_bytes_per_token(2) + OVERHEAD_BYTES
    assert needed_bytes(full, CONFIG, 2_500_000_000, 4096) > 4 * CONFIG.weight_elements()
    assert fit_together([half, half], CONFIG, 2_500_000_000, 4096, free_bytes=int(2 * one / 0.79))
    assert not fit_together([half, half], CONFIG, 2_500_000_000, 4096, free_bytes=int(2 * one / 0.81))
    assert not fit_together([half], CONFIG, 2_500_000_000, 4096, free_bytes=0)


class Dying(LivingEngine):
    """Dies when it is asked for its memory."""

    def __init__(self) -> None: ...

    def pss_bytes(self) -> int | None:
        return 1

    def device_bytes(self) -> int | None:
        raise EngineDied("killed by signal 9 during memory", [])


def test_an_engine_that_dies_between_two_answers_is_started_again_for_the_next(engines: dict[str, EngineInfo]) -> None:
    settings = Settings(model="tiny", weights="auto", device="cuda", threads=1)
    partner = Partner(Choice(engines["first"], "half"), settings, None, print, engine=Dying())
    with pytest.raises(EngineDied):
        partner.look()
    assert partner.engine is None


def ended(tokens: list[int], n_gen: int, cancelled: bool = False, n_ctx: int = 100) -> str:
    generated = Generated(
        id=1,
        n_prompt=10,
        prompt_sha256="0" * 64,
        tokens=pack_ids(tokens),
        t_start_ns=1_000,
        t_token_ns=pack_times(range(2_000, 2_000 + 500 * len(tokens), 500)),
    )
    turn = turn_of(generated, Received(generated, 900, 10_000), n_ctx, n_gen, stop=[7], cancelled=cancelled)
    assert turn.tokens == array("i", tokens)
    assert turn.ttft_ns == (1_100 if tokens else None)
    return turn.ended


def test_an_answer_says_why_it_ended() -> None:
    assert ended([1, 2, 7], n_gen=5) == "stop"
    assert ended([1, 2, 3, 4, 5], n_gen=5) == "length"
    assert ended([1, 2, 3, 4, 5], n_gen=5, n_ctx=15) == "context"
    assert ended([1, 2], n_gen=5, cancelled=True) == "cancelled"
    assert ended([], n_gen=5, cancelled=True) == "cancelled"
    assert ended([1, 7], n_gen=5, cancelled=True) == "stop"
