"""From raw stamps to the latencies of one request. The definitions are those of docs/methodology.md, section 1."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise


@dataclass(frozen=True)
class RequestTiming:
    """One request: when it started, and when each token's id was on the host."""

    n_prompt: int
    t_start_ns: int
    t_token_ns: array[int]

    @property
    def n_gen(self) -> int:
        return len(self.t_token_ns)

    @property
    def ttft_ns(self) -> int:
        """Time to first token: prefill and one decision."""
        return self.t_token_ns[0] - self.t_start_ns

    @property
    def e2e_ns(self) -> int:
        return self.t_token_ns[-1] - self.t_start_ns

    @cached_property
    def itl_ns(self) -> list[int]:
        """Gaps between neighbouring tokens, n_gen - 1 of them."""
        return [later - earlier for earlier, later in pairwise(self.t_token_ns)]

    @property
    def tpot_ns(self) -> float | None:
        """Time per output token after the first; None with fewer than two tokens."""
        return (self.e2e_ns - self.ttft_ns) / (self.n_gen - 1) if self.n_gen > 1 else None

    @property
    def prefill_tps(self) -> float:
        """Prompt tokens per second up to the first token."""
        return self.n_prompt / self.ttft_ns * 1e9

    @property
    def decode_tps(self) -> float | None:
        """Tokens per second after the first: the first token belongs to the prefill."""
        tpot = self.tpot_ns
        return 1e9 / tpot if tpot else None

    @property
    def peak_decode_tps(self) -> float | None:
        """From the shortest gap."""
        shortest = min(self.itl_ns, default=0)
        return 1e9 / shortest if shortest else None
