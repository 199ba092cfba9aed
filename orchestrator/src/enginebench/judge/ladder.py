"""The fidelity ladder of one case: what `enginebench verify` asks, and where each answer stands.

G0 tokenizer, G1 divergence, G1b likeliest tokens, G1c logits, G2 perplexity, G3 greedy text, and whether the same
request gives the same ids. Bounds are in `enginebench_models.bounds`. G4, tasks, is not done here.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from enginebench_models.bounds import bounds
from enginebench_models.fidelity import compare
from enginebench_models.greedy import Choices, objections
from enginebench_models.tokenizer import Tokenizer

from .impact import nll, standard_error

Logits = npt.NDArray[np.float32]
STRINGS = 1000
SURROGATES = range(0xD800, 0xE000)


@dataclass(frozen=True)
class Rung:
    """`passed` is None where the engine cannot show it. `found` is the number in words, with its bound."""

    name: str
    passed: bool | None
    found: str


# ---- G0 -------------------------------------------------------------------------------------------------------


def tokenizer_rung(tokenizer: Tokenizer) -> Rung:
    """Text comes back as it went in, for 1000 seeded strings: half of words and numbers, half of any Unicode."""
    texts = sample_texts()
    same = sum(tokenizer.decode(tokenizer.encode(text, add_bos=False)) == text for text in texts)
    return Rung("G0", same == len(texts), f"{same} of {len(texts)} strings come back")


def sample_texts() -> list[str]:
    dice = random.Random("enginebench:G0")  # noqa: S311 (not for secrets)
    any_point = [chr(p) for p in range(0x20000) if p not in SURROGATES]
    plain = list(" \n\t\r'.,:;!?-_/()0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    return ["".join(dice.choices(plain if i % 2 else any_point, k=dice.randrange(1, 40))) for i in range(STRINGS)]


# ---- G1 and G2 ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scored:
    """One sequence: the reference's rows, the engine's, and the ids that follow all rows but the last."""

    reference: Logits
    candidate: Logits
    following: Sequence[int]


def logit_rungs(scored: Sequence[Scored], precision: str, top_logprobs: int = 0) -> list[Rung]:
    reference = np.concatenate([s.reference for s in scored])
    candidate = np.concatenate([s.candidate for s in scored])
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity are judged, not warned of
        found = compare(reference, candidate, top_logprobs)
    bound = bounds(precision)
    if not math.isfinite(found.mean_kld) or found.kld_999 is None:
        return [Rung("G1", False, "the logits hold NaN or infinity")]
    least = "at least " if top_logprobs else ""
    shifted = found.max_abs_logit if found.max_shifted_logit is None else found.max_shifted_logit
    return [
        _at_most("G1", f"mean KLD {least}", found.mean_kld, bound.mean_kld),
        _at_most("G1", f"99.9 % KLD {least}", found.kld_999, bound.kld_999),
        _clear(found.top1_clear, bound.top1_clear),
        _at_most("G1c", "logit error beyond a shift ", shifted, bound.shifted_logit),
        Rung("G2", None, "needs all logits") if top_logprobs else perplexity_rung(scored, bound.ln_ppl),
    ]


def perplexity_rung(scored: Sequence[Scored], bound: float) -> Rung:
    """The change of ln PPL, less twice its paired standard error: the corpus of seeded ids is small."""
    differences = np.concatenate([nll(s.candidate, s.following) - nll(s.reference, s.following) for s in scored])
    delta = abs(float(differences.mean()))
    error = standard_error(differences)
    text = f"ln PPL changes by {delta:.1e} ± {error:.0e} over {len(differences)} ids, bound {bound:g}"
    return Rung("G2", delta - 2 * error <= bound, text)


def _at_most(name: str, what: str, value: float, bound: float) -> Rung:
    return Rung(name, value <= bound, f"{what}{value:.1e}, bound {bound:g}")


def _clear(agreed: float | None, bound: float) -> Rung:
    if agreed is None:
        return Rung("G1b", None, "the reference prefers no id clearly")
    return Rung("G1b", agreed >= bound, f"clear likeliest ids agree at {agreed:.2%}, bound {bound:.0%}")


# ---- G3 and determinism ---------------------------------------------------------------------------------------


def greedy_rung(found: Sequence[Choices], precision: str) -> Rung:
    """Every chosen id that is not the reference's likeliest was a near tie for it."""
    bad = [reasons for choices in found if (reasons := objections(choices, precision))]
    n_ids = sum(len(choices.ranks) for choices in found)
    other = sum(rank > 1 for choices in found for rank in choices.ranks)
    margin = max(max(choices.margins) for choices in found)
    text = (
        f"{other} of {n_ids} ids are not the likeliest, by {margin:.2g} nat at most, bound {bounds(precision).greedy:g}"
    )
    return Rung("G3", not bad, text + (f"; {bad[0][0]}" if bad else ""))


def repeat_rung(first: Sequence[int], second: Sequence[int]) -> Rung:
    """An engine may be right without repeating itself: said, not failed."""
    same = list(first) == list(second)
    return Rung("repeat", True if same else None, "the same ids" if same else "other ids: not deterministic")
