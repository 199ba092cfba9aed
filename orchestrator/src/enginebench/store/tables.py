"""The tables that stored runs are asked through: their columns, types and meanings, once for all.

`enginebench query` sees them by these names; results/SCHEMA.md lists them from here. `judge.rows` fills them.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Column:
    name: str
    kind: str
    """DuckDB's type."""
    meaning: str


@dataclass(frozen=True)
class Table:
    name: str
    meaning: str
    columns: tuple[Column, ...]


RUN = Column("run_id", "VARCHAR", "which run")
CASE = Column("case_id", "VARCHAR", "engine:configuration/model/workload, /tN of swept threads, /xN of shards")

HEADLINES = ("decode_tps", "prefill_tps", "ttft_ns", "tpot_ns", "e2e_ns", "load_ns", "cold_start_ns", "mbu")
"""Metrics that `cases` has as columns, besides the peak of memory."""
LAUNCH_TIMES = ("startup_ns", "load_ns", "cold_start_ns", "first_request_ttft_ns", "ttft_ns", "tpot_ns", "e2e_ns")
REQUEST_TIMES = ("ttft_ns", "tpot_ns", "min_itl_ns", "max_itl_ns", "e2e_ns")

TABLES = (
    Table(
        "runs",
        "one row per run",
        (
            RUN,
            Column("date", "TIMESTAMP", "start, UTC"),
            Column("commit", "VARCHAR", "of the checkout; null outside a repository"),
            Column("dirty", "BOOLEAN", "there were changes that no commit holds"),
            Column("machine", "VARCHAR", "what results must share to be compared: processor and GPUs"),
            Column("cpu", "VARCHAR", "model"),
            Column("gpu", "VARCHAR", "names, joined by +; null without one"),
            Column("driver", "VARCHAR", "of the GPU"),
            Column("memory_bytes", "BIGINT", "of the machine"),
            Column("kernel", "VARCHAR", "version"),
            Column("distribution", "VARCHAR", "name and version"),
            Column("python", "VARCHAR", "version of the orchestrator's"),
            Column("device", "VARCHAR", "cpu or cuda"),
            Column("preset", "VARCHAR", "its name"),
            Column("verdicts", "BOOLEAN", "the preset gathers enough launches for verdicts"),
            Column("seed", "BIGINT", "of prompts and order"),
            Column("launches", "INTEGER", "of each case, as fitted into the time budget"),
            Column("iterations", "INTEGER", "measured requests of each launch"),
            Column("warmup", "INTEGER", "warm-up requests of each launch"),
            Column("rebuilt", "BOOLEAN", "made again from its journal"),
        ),
    ),
    Table(
        "cases",
        "one row per case of a run; the columns of metrics are null where the value is not valid",
        (
            RUN,
            CASE,
            Column("engine", "VARCHAR", "name"),
            Column("configuration", "VARCHAR", "name"),
            Column("model", "VARCHAR", "name"),
            Column("workload", "VARCHAR", "name"),
            Column("role", "VARCHAR", "engine, instrument or test"),
            Column("status", "VARCHAR", "ok, failed, unavailable or invalid"),
            Column("reason", "VARCHAR", "why it is not ok, or a caution"),
            Column("n_prompt", "INTEGER", "prompt tokens"),
            Column("n_gen", "INTEGER", "generated tokens"),
            Column("n_depth", "INTEGER", "tokens in the cache before the prompt"),
            Column("batch_size", "INTEGER", "requests at a time"),
            Column("threads", "INTEGER", "the engine was told to use"),
            Column("shards", "INTEGER", "devices or ranks that shared the model"),
            Column("weights", "VARCHAR", "real or synthetic"),
            Column("fingerprint", "VARCHAR", "SHA-256 of the weights"),
            Column("weight_dtype", "VARCHAR", "read off the tensors in use"),
            Column("kv_dtype", "VARCHAR", "of the cache"),
            Column("fidelity_passed", "BOOLEAN", "null where it was not reached"),
            Column("mean_kld", "DOUBLE", "KL divergence from the reference, nats"),
            *(Column(name, "DOUBLE", "metric") for name in HEADLINES),
            Column("peak_memory_bytes", "BIGINT", "of the process tree, or of the device on a GPU"),
            Column("engine_versions", "VARCHAR", "what the engine reports of itself"),
            Column("versions", "MAP(VARCHAR, VARCHAR)", "of everything installed: versions['numpy']"),
        ),
    ),
    Table(
        "metrics",
        "one row per metric of a case, valid or not",
        (
            RUN,
            CASE,
            Column("metric", "VARCHAR", "name"),
            Column("value", "DOUBLE", "null where there is none"),
            Column("unit", "VARCHAR", "ns, tok/s, bytes, …"),
            Column("valid", "BOOLEAN", "may be used"),
            Column("low", "DOUBLE", "lower end of the 95 % interval"),
            Column("high", "DOUBLE", "upper end"),
            Column("reasons", "VARCHAR", "cautions, or why it is not valid"),
        ),
    ),
    Table(
        "launches",
        "one row per child process; times of requests are medians over its measured requests without doubts",
        (
            RUN,
            CASE,
            Column("kind", "VARCHAR", "timed; check, cold, energy and profile never count as speed"),
            Column("block", "INTEGER", "which block"),
            Column("position", "INTEGER", "place in the block"),
            Column("started_at", "TIMESTAMP", "UTC"),
            Column("duration_ns", "BIGINT", "whole launch"),
            Column("failure", "VARCHAR", "its reason; null if it ended well"),
            *(Column(name, "DOUBLE", "as the metric") for name in LAUNCH_TIMES),
            Column("peak_pss_bytes", "BIGINT", "check launches only"),
            Column("harness_cpu_share", "DOUBLE", "processor time of the orchestrator ÷ wall time"),
        ),
    ),
    Table(
        "requests",
        "one row per request, warm-up and check requests too",
        (
            RUN,
            CASE,
            Column("kind", "VARCHAR", "of its launch"),
            Column("block", "INTEGER", "of its launch"),
            Column("phase", "VARCHAR", "warm-up, measured or depth"),
            Column("iteration", "INTEGER", "number within the launch"),
            Column("n_prompt", "INTEGER", "prompt tokens"),
            Column("n_tokens", "INTEGER", "received"),
            *(Column(name, "DOUBLE", "of this request") for name in REQUEST_TIMES),
            Column("doubts", "VARCHAR", "recorded causes that exclude it; null without"),
        ),
    ),
)

VIEWS = {
    "results": (
        "cases with the facts of their run",
        "SELECT * FROM runs JOIN cases USING (run_id)",
    ),
    "unread": (
        "folders that hold no run that can be read, and why",
        "SELECT folder, reason FROM files WHERE reason IS NOT NULL",
    ),
}
"""Name → what it is, and its SELECT."""

Row = dict[str, object]


@dataclass(frozen=True)
class RunRows:
    """A run as rows: table name → rows, each column name → value."""

    run_id: str
    tables: dict[str, list[Row]] = field(default_factory=dict)


def sql_name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def create_statement(table: Table) -> str:
    columns = ", ".join(f"{sql_name(column.name)} {column.kind}" for column in table.columns)
    return f"CREATE TABLE {sql_name(table.name)} ({columns})"
