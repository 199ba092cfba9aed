"""What an engine with a loop of its own owes whoever asks it, said once for the tests of all such engines.

They bring a loaded engine and a prompt. Root of the imports: [tool.pytest.ini_options] pythonpath.
"""

from __future__ import annotations

from array import array

import numpy as np
import pytest
from enginebench_models.sampling import chooser
from enginebench_protocol.engine import GREEDY, Engine, Sampling

DRAWN = Sampling(0.8, 5)
OTHER = array("i", range(30))
SAMPLINGS = pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "sampled"])


def check_that_ids_are_drawn_from_the_scored_rows(engine: Engine, prompt: array[int], n_gen: int = 20) -> None:
    """By this temperature and this seed, and no other; near 0 the likeliest."""
    ids = list(engine.generate(prompt, n_gen, DRAWN))
    scored = np.asarray(engine.score(prompt + array("i", ids[:-1]), len(prompt)))
    for temperature, seed in ((0.8, 5), (0.8, 6), (0.4, 5)):
        choose = chooser(temperature, seed)
        assert ([choose(row) for row in scored] == ids) == ((temperature, seed) == (0.8, 5))
    assert list(engine.generate(prompt, n_gen, Sampling(1e-6, 5))) == list(engine.generate(prompt, n_gen))


def check_that_a_given_up_request_leaves_nothing(
    engine: Engine, prompt: array[int], sampling: Sampling, n_gen: int = 20
) -> None:
    whole, drawn = list(engine.generate(prompt, n_gen)), list(engine.generate(prompt, n_gen, DRAWN))
    for n_taken in (1, 3):
        ids = engine.generate(OTHER, n_gen, sampling)
        assert len([next(ids) for _ in range(n_taken)]) == n_taken
        ids.close()  # type: ignore[attr-defined]
        assert list(engine.generate(prompt, n_gen)) == whole
        assert list(engine.generate(prompt, n_gen, DRAWN)) == drawn
