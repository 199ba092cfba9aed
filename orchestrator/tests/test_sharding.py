"""Cases that share a model among devices: their names, their limits, and what is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from enginebench.errors import UsageError
from enginebench.judge.assemble import CaseFacts, assemble
from enginebench.judge.comparable import difference
from enginebench.judge.plain_case import case_id, label
from enginebench.judge.utilisation import Limit, over_devices
from enginebench.machine.nvml import gpu_count
from enginebench.plan.sharding import check_devices, sharded
from enginebench.report.regression import _identity
from enginebench.report.sharding import shard_remark
from enginebench.report.verdicts import _is_at
from enginebench.store.record import Case


def test_shards_are_part_of_a_case_only_where_there_are_several(records: Any) -> None:
    one = records.case()
    two = msgspec.structs.replace(one, shards=2)
    assert (one.id, one.label) == ("torch:half/m/pp4+tg3", "torch:half")
    assert (two.id, two.label) == ("torch:half/m/pp4+tg3/x2", "torch:half x2")
    swept = msgspec.structs.replace(two, threads=4)
    assert (swept.id, swept.label) == ("torch:half/m/pp4+tg3/t4/x2", "torch:half t4 x2")


def test_a_record_of_a_time_without_shards_is_readable(records: Any) -> None:
    old = msgspec.to_builtins(records.case())
    del old["shards"]
    assert msgspec.convert(old, Case) == records.case()


def test_an_instrument_stays_on_one_device(records: Any) -> None:
    cases = sharded([records.case("limit", "default"), records.case()], 2, {"limit"})
    assert [case.shards for case in cases] == [1, 2]


def test_more_shards_than_devices_is_an_error_that_names_how_many_there_are() -> None:
    with pytest.raises(UsageError, match=r"this machine has 2$"):
        check_devices(3, "cpu", 2)
    with pytest.raises(UsageError, match="this machine has 1 GPU;"):
        check_devices(2, "cuda", 1)


@pytest.mark.parametrize(("shards", "found"), [(1, 1), (2, 2), (2, 8), (4, None)])
def test_as_many_shards_as_devices_are_no_error(shards: int, found: int | None) -> None:
    check_devices(shards, "cuda", found)


@pytest.mark.parametrize(
    ("visible", "count"), [("0", 1), ("2,3", 2), ("GPU-1, GPU-2,GPU-3", 3), ("0,-1,1", 1), ("", 0)]
)
def test_only_gpus_that_engines_may_see_are_counted(visible: str, count: int) -> None:
    assert gpu_count(visible) == count


def test_each_gpu_of_a_sharded_case_reads_at_the_limit_and_ranks_on_a_processor_share_one() -> None:
    limit = Limit("limit:default", 100, 5.0)
    on_two = over_devices(limit, 2, "cuda")
    assert on_two is not None
    assert (on_two.bytes_per_second, on_two.label) == (1000.0, "limit:default on each of 2 GPUs")
    assert over_devices(limit, 2, "cpu") is limit
    assert over_devices(limit, 1, "cuda") is limit


@pytest.mark.parametrize(("device", "status"), [("cuda", "ok"), ("cpu", "invalid")])
def test_two_gpus_may_read_twice_what_one_can_and_two_ranks_of_a_processor_may_not(
    records: Any, device: str, status: str
) -> None:
    """300 MB per token in 10 ms are 30 GB/s: above the 20 GB/s of one device, below those of two."""
    limit, sharded_case = records.case("limit", "default"), msgspec.structs.replace(records.case(), shards=2)
    told = records.loaded(read_bytes_per_token=300_000_000, kv_cache_bytes=0, shards=2)
    reads = records.loaded(read_bytes_per_token=200_000_000, kv_cache_bytes=0)
    launches = [
        records.timed([records.request(i, (10, 20, 30)) for i in range(2)], limit, loaded=reads),
        records.check(sharded_case, loaded=told),
        records.timed([records.request(i, (20, 30, 40)) for i in range(2)], sharded_case, loaded=told),
    ]
    facts = [CaseFacts(limit, "instrument"), CaseFacts(sharded_case, "engine")]
    row = assemble("r", records.environment(), records.plan(device=device), facts, launches)["cases"][1]
    assert (row["status"], row["shards"]) == (status, 2), row["reason"]
    assert (label(row), case_id(row)) == (sharded_case.label, sharded_case.id)


def test_reports_find_the_parts_of_a_sharded_id() -> None:
    class Row:
        case_id = "torch:half/m/pp4+tg3/x2"

    assert _is_at(Row.case_id, "/m/pp4+tg3")
    assert _identity(Row)["case"] == "torch:half x2"  # type: ignore[arg-type]
    assert _identity(Row)["threads"] == ""  # type: ignore[arg-type]


def test_an_engine_that_stayed_on_one_device_did_other_work(records: Any) -> None:
    case = msgspec.structs.replace(records.case(), shards=2)
    launches = [records.check(case, loaded=records.loaded(shards=2)), records.check(case)]
    assert difference(launches[:1], records.plan()) is None
    assert difference(launches, records.plan()) == "other shards: 1 hold the model, 2 were asked for"


def test_the_row_says_what_each_device_holds(records: Any) -> None:
    memory = {"process_peaks_bytes": [800_000_000, 700_000_000]}
    loaded = {"device": "cpu", "device_bytes": [650_000_000, 650_000_000]}
    case = {"shards": 2, "loaded": loaded, "launches": [{"memory": None}, {"memory": memory}]}
    assert shard_remark(case) == (
        "2 ranks on one processor: no speed-up; weights and cache 0.65 + 0.65 GB; "
        "processes peaked at 0.8 + 0.7 GB, each on its own"
    )
    assert shard_remark({**case, "loaded": {"device": "NVIDIA H200"}, "launches": []}) == (
        "2 devices; the engine does not tell what each one holds"
    )
    assert shard_remark({**case, "shards": None}) is None
