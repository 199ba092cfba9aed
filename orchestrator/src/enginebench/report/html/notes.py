"""How things are measured, in a few sentences each: what the sections of a report refer to.

In full: docs/methodology.md.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Note:
    title: str
    text: str


NOTES = {
    "gate": Note(
        "Right answer first",
        "An engine shows a speed only after its logits were held against a float32 reference of the very same weights. "
        "KLD is the mean Kullback-Leibler divergence from it, |Δ| the largest logit error of a float32 engine. "
        "A case that failed keeps its row and loses its speeds. Marks: ! invalid, ? suspect, [ ] other conditions "
        "than most rows; the notes below the table say which.",
    ),
    "intervals": Note(
        "Intervals",
        "The launch, not the request, is the unit: a launch's value is the median of its measured requests, a case's "
        "value the geometric mean over its launches, and the interval Student's t on their logarithms, 95 %. Fewer "
        "than three launches give none. Decode is tokens per second after the first token; prefill and decode are "
        "never mixed.",
    ),
    "warm-up": Note(
        "Warm-up",
        "Nothing is cut off: the curves show every request of a process, the first ones too. Change-points class each "
        "launch as flat, warm-up, slow-down or no steady state. Only measured requests enter the averages.",
    ),
    "memory": Note(
        "Memory",
        "Read from outside in a launch that is not timed: the highest sum of the proportional set sizes of the process "
        "tree, or the device's memory on a GPU. Weights, cache and workspace are the engine's own account; the rest of "
        "the peak is runtime, driver context, and what the engine does not know of.",
    ),
    "cold-start": Note(
        "Cold start",
        "From the spawn of the process to the first token of its first request, mean over launches, with the model's "
        "file on the disk alone or in the page cache. Compiled kernels were cached in both. Parts are as the engine "
        "tells them apart; rest is what it does not, wait what lies between the steps.",
    ),
    "break-even": Note(
        "Break-even",
        "When token number N has come, counted from the spawn, one request of the workload after the other: the "
        "warm-up requests as they were, then steady ones. Where two lines cross, the one that started later has "
        "caught up for good, up to 10,000 tokens.",
    ),
    "roofline": Note(
        "Roofline",
        "At batch 1 every token reads all weights and the cache, so the memory's bandwidth bounds the rate: the line "
        "is what the instrument read per second in the same run. Operations per byte are computed from the model's "
        "shape at the mean context. Above the line a number is invalid: work was skipped, or counted wrongly.",
    ),
    "quantisation": Note(
        "Quantisation impact",
        "A quantised configuration against the one that differs in nothing else: bytes of the weights, speed, and how "
        "far its answers moved from a float32 reference of the weights before quantising.",
    ),
    "verdicts": Note(
        "Verdicts",
        "A ratio is one of speeds. FASTER and SLOWER need a difference that Holm's correction over the whole table "
        "leaves significant, an interval without 1, and a size above the least difference that counts; SAME needs the "
        "90 % interval within it; everything else is INCONCLUSIVE. Ten launches are the fewest for a verdict. Two runs "
        "are compared only on the same machine, weights and workload.",
    ),
    "noise": Note(
        "Noise",
        "The machine is read before and after the run and around every launch, never while a request runs. A gate that "
        "invalidates takes its launch out of the averages; one that warns is told here. Causes are recorded, odd "
        "values are kept.",
    ),
}
