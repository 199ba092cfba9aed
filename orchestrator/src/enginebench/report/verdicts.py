"""The comparisons of a run in sentences: each case against the fastest, and what configurations say of each other.

A ratio is one of speeds: 2x is twice as fast. The word never stands without its ratio and interval.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from enginebench.counted import counted
from enginebench.judge.plain_case import case_id, class_of

TITLES = {"tpot_ns": "decode", "ttft_ns": "prefill", "load_ns": "load", "e2e_ns": "whole request"}
RANKED = "tpot_ns"
TURNED = {"FASTER": "SLOWER", "SLOWER": "FASTER"}

Row = Mapping[str, Any]


def verdict_lines(result: Row, model: str, workload: str) -> list[str]:
    """For one table; empty where nothing was compared."""
    place = f"/{model}/{workload}"
    verdicts = result["plan"].get("verdicts", False)
    pairs, named = compared(result, model, workload)
    return [*_pairs(pairs, place, _classes(result)), *_named(named, place, verdicts)]


def _classes(result: Row) -> dict[str, str | None]:
    """Case id → the precision class within which it was compared; None: with all."""
    return {case_id(case): class_of(case, result["plan"]) for case in result["cases"]}


def compared(result: Row, model: str, workload: str) -> tuple[list[Row], list[Row]]:
    """Every pair of the table, and the comparisons that have a name."""
    place = f"/{model}/{workload}"
    here = [c for c in result["comparisons"] if _is_at(c["base"], place) and c["base"] != c["new"]]
    return [c for c in here if c["name"] is None], [c for c in here if c["name"] is not None]


def against_fastest(pairs: Sequence[Row]) -> list[Row]:
    """Those with the fastest case in them, it as the base; of each class that was compared apart from the others."""
    return [seen for group in compared_apart(pairs) for seen in _against(fastest(group), group)]


def compared_apart(pairs: Sequence[Row]) -> list[list[Row]]:
    """In a fair comparison no pair crosses a precision class: pairs that share cases are of one class."""
    groups: list[tuple[set[str], list[Row]]] = []
    for pair in pairs:
        ends = {pair["base"], pair["new"]}
        ids, members = next((group for group in groups if group[0] & ends), (set[str](), list[Row]()))
        if not ids:
            groups.append((ids, members))
        ids |= ends
        members.append(pair)
    return [members for _, members in groups]


def _against(best: str, pairs: Sequence[Row]) -> Iterator[Row]:
    for pair in pairs:
        if best in (pair["base"], pair["new"]):
            yield pair if pair["base"] == best else turned(pair)


def stopping_line(plan: Row) -> str | None:
    """Why the run ended after so many launches; None where it was not for it to decide."""
    looks = (plan.get("stopping") or {}).get("looks", ())
    if not looks or looks[-1]["half_width"] is None:
        return None
    last = looks[-1]
    needed = f", {last['needed']} launches would" if last["needed"] and last["needed"] > last["launches"] else ""
    widths = f"±{last['half_width']:.1%}, wanted ±{plan['stopping']['half_width']:.1%}"
    ended = f"ended after {counted(last['launches'], 'launch')}: {last['why'] or 'interrupted'}"
    return f"{ended} (widest ratio of times per token {widths}{needed})"


def rank(case: Row) -> str:
    """ "1" or "1-2": cases that share a number were not told apart in decoding. Empty without verdicts."""
    groups = case.get("rank_groups")
    if not groups:
        return ""
    return str(groups[0]) if len(groups) == 1 else f"{groups[0]}-{groups[-1]}"


def outcome(comparison: Row, verdict: bool = True) -> str:
    """ "decode 0.620x [0.610, 0.630] SLOWER"."""
    title = TITLES.get(comparison["metric"], comparison["metric"])
    if comparison["ratio"] is None:
        return f"{title}: {'; '.join(comparison['reasons'])}"
    bounds = comparison["interval_95"]
    interval = f" [{bounds[0]:.3f}, {bounds[1]:.3f}]" if bounds else ""
    return f"{title} {comparison['ratio']:.3f}x{interval}{_word(comparison) if verdict else ''}"


def turned(comparison: Row) -> dict[str, Any]:
    """The same comparison with base and new exchanged."""
    ratio, verdict = comparison["ratio"], comparison["verdict"]
    return {
        **comparison,
        "base": comparison["new"],
        "new": comparison["base"],
        "ratio": None if ratio is None else 1 / ratio,
        "interval_95": _inverse(comparison["interval_95"]),
        "interval_90": _inverse(comparison["interval_90"]),
        "verdict": TURNED.get(verdict, verdict),
    }


def _inverse(bounds: Sequence[float] | None) -> list[float] | None:
    return None if bounds is None else [1 / bounds[1], 1 / bounds[0]]


def _word(comparison: Row) -> str:
    further = comparison["further_launches"]
    more = f" (about {counted(further, 'more launch')} would decide)" if further is not None else ""
    return f" {comparison['verdict']}{more}"


def _is_at(id_: str, place: str) -> bool:
    """A case id is LABEL/model/workload, /tTHREADS where they are swept, /xSHARDS where devices share a model."""
    rest = id_.partition(place)[2]
    return place in id_ and (not rest or rest.startswith(("/t", "/x")))


def label_at(id_: str, place: str) -> str:
    return id_.replace(place, "").replace("/", " ")


def _pairs(pairs: Sequence[Row], place: str, classes: Mapping[str, str | None]) -> Iterator[str]:
    """A class at a time: nothing is said across them."""
    groups = compared_apart(pairs)
    for group in groups:
        name = classes[group[0]["base"]]
        yield _heading(group, f" within {name}" if name and len(groups) > 1 else "")
        yield from _told(group, place)


def _told(pairs: Sequence[Row], place: str) -> Iterator[str]:
    best = fastest(pairs)
    against: dict[str, list[str]] = {}
    for seen in _against(best, pairs):
        against.setdefault(seen["new"], []).append(outcome(seen))
    for id_, outcomes in against.items():
        yield f"{label_at(id_, place)} against {label_at(best, place)}: {'; '.join(outcomes)}"


def _heading(pairs: Sequence[Row], within: str) -> str:
    deltas = {pair["delta"] for pair in pairs}
    floor = "no A/A floor was measured here" if deltas == {0.01} else "from the A/A floor of this machine"
    least = "/".join(f"{delta:.1%}" for delta in sorted(deltas))
    words = Counter(pair["verdict"] for pair in pairs if pair["metric"] == RANKED)
    told = words["FASTER"] + words["SLOWER"]
    asked = counted(words.total(), "pair")
    return (
        f"verdicts{within}: of {asked} {told} were told apart in decoding, {words['SAME']} are the same, "
        f"{words['INCONCLUSIVE']} inconclusive (Holm over all pairs; least difference {least}: {floor})"
    )


def fastest(pairs: Sequence[Row]) -> str:
    """The case that more others decode slower than than any other."""
    wins: Counter[str] = Counter()
    for pair in pairs:
        if pair["metric"] == RANKED and pair["ratio"] is not None:
            wins[pair["new" if pair["ratio"] > 1 else "base"]] += 1
    ids: list[str] = [pair[end] for pair in pairs for end in ("base", "new")]
    return max(ids, key=lambda id_: wins[id_])


def _named(named: Sequence[Row], place: str, verdicts: bool) -> Iterator[str]:
    """Without verdicts the ratios stand alone: too few launches for a word."""
    grouped: dict[tuple[str, str, str], list[str]] = {}
    for one in named:
        grouped.setdefault((one["name"], one["new"], one["base"]), []).append(outcome(one, verdicts))
    for (name, new, base), outcomes in grouped.items():
        yield f"{name} ({label_at(new, place)} against {label_at(base, place)}): {'; '.join(outcomes)}"
