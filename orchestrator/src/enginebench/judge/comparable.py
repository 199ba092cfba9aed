"""Did a case do the same work as the others? Weights, prompts and token counts, as each engine echoed them.

The plan is the yardstick: the fingerprint of the model it names, and the prompts its seed gives. Conditions that differ
without changing the work are for `brackets`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from enginebench_protocol.codec import pack_ids
from enginebench_protocol.prompts import ids_sha256, prompt_ids

from enginebench.store.record import Launch, Workload


def difference(launches: Sequence[Launch], plan: Mapping[str, Any]) -> str | None:
    """Why the launches of one case must not stand beside the others of this plan; None if nothing differs."""
    if not launches:
        return None
    case = launches[0].case
    model = next((m for m in plan["models"] if m["name"] == case.model), None)
    if model is None:
        return f"model {case.model} is not in the plan"
    return (
        _other_weights(launches, model["fingerprint"])
        or _other_shards(launches)
        or _other_counts(launches)
        or _other_prompts(
            launches, expected_prompts(launches, plan["seed"], case.workload, model["shape"]["vocab_size"])
        )
    )


def expected_prompts(launches: Sequence[Launch], seed: int, workload: Workload, vocab_size: int) -> dict[int, str]:
    """iteration → sha256 of its prompt, for the iterations that were run."""
    lengths = {r.iteration: workload.tokens_of(r.phase)[0] for launch in launches for r in launch.requests}
    return {i: ids_sha256(pack_ids(prompt_ids(seed, i, lengths[i], vocab_size))) for i in sorted(lengths)}


def _other_weights(launches: Sequence[Launch], fingerprint: str) -> str | None:
    found = {launch.loaded.weights_fingerprint for launch in launches if launch.loaded} - {fingerprint}
    if not found:
        return None
    return f"other weights: fingerprint {min(found)[:12]} was loaded, the model's is {fingerprint[:12]}"


def _other_shards(launches: Sequence[Launch]) -> str | None:
    """An engine that did not understand the request would show the speed of one device as that of several."""
    for launch in launches:
        if launch.loaded and launch.loaded.shards != launch.case.shards:
            return f"other shards: {launch.loaded.shards} hold the model, {launch.case.shards} were asked for"
    return None


def _other_counts(launches: Sequence[Launch]) -> str | None:
    """Tokens of each request, against those of its workload."""
    for launch in launches:
        for request in launch.requests:
            asked, found = launch.case.workload.tokens_of(request.phase), (request.n_prompt, len(request.t_token_ns))
            if found != asked:
                return f"other counts: {_sum(found)} tokens in a request, the workload's are {_sum(asked)}"
    return None


def _sum(tokens: tuple[int, int]) -> str:
    return f"{tokens[0]} + {tokens[1]}"


def _other_prompts(launches: Sequence[Launch], expected: Mapping[int, str]) -> str | None:
    for launch in launches:
        for request in launch.requests:
            if request.prompt_sha256 != expected[request.iteration]:
                return (
                    f"other prompts: request {request.iteration} of a {launch.kind} launch had prompt "
                    f"{request.prompt_sha256[:12]}, the plan's is {expected[request.iteration][:12]}"
                )
    return None
