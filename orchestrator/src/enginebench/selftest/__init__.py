"""How often the suite itself is wrong: its false verdicts, what it can detect, and what its instruments cost.

`pairs` launches engines of known speed and compares them as a run would; `page` writes down what came out. The
simulations behind the intervals are in `judge.simulation`, the noise gates in `machine`.
"""
