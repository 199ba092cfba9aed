"""One model over several ranks: which part of each weight a rank holds, and what the ranks exchange.

Megatron-LM's cut (arXiv 1909.08053, section 3): Q, K, V, gate and up by output, so that a rank owns whole heads; o and
down by input, so that two sums over the ranks are all that a block needs. The table and the output head are cut over
the vocabulary. Sums are float32. Left out: who the ranks are and how they are started (ranks.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
from enginebench_models.config import LlamaConfig
from torch import Tensor

CUT_BY_INPUT = ("o_proj", "down_proj")
WHOLE = slice(None)


@dataclass(frozen=True)
class Shard:
    """Rank `rank` of `n`."""

    rank: int = 0
    n: int = 1

    def own(self, size: int) -> slice:
        """Its run of `size` things; the last ranks have fewer where they cannot be divided."""
        step = -(-size // self.n)
        return slice(min(self.rank * step, size), min((self.rank + 1) * step, size))

    def count(self, size: int) -> int:
        own = self.own(size)
        return int(own.stop - own.start)

    def cut(self, name: str, shape: tuple[int, ...]) -> tuple[slice, slice]:
        """Rows and columns of a stored weight [out, in] that this rank holds; vectors are whole on every rank."""
        if self.n == 1 or len(shape) == 1:
            return WHOLE, WHOLE
        if name.endswith(CUT_BY_INPUT):
            return WHOLE, self.own(shape[1])
        return self.own(shape[0]), WHOLE

    def block(self, config: LlamaConfig) -> LlamaConfig:
        """The shape of this rank's part of each block. Ask `config.undivided` first."""
        heads, kv_heads = config.n_heads // self.n, config.n_kv_heads // self.n
        return replace(config, n_heads=heads, n_kv_heads=kv_heads, hidden_dim=config.hidden_dim // self.n)

    def embedded(self, tokens: Tensor, table: Tensor, vocab_size: int) -> Tensor:
        """Rows of a table that is cut over the vocabulary: who has a row adds it, the others add zeros. float32"""
        if self.n == 1:
            return table[tokens].float()
        rows = tokens - self.own(vocab_size).start
        mine = (rows >= 0) & (rows < table.shape[0])
        found = table[rows.clamp(0, table.shape[0] - 1)].float()
        return self.total(found.where(mine[:, None], 0.0))

    def total(self, part: Tensor) -> Tensor:
        """The sum over the ranks, on each of them. `part` may be overwritten."""
        if self.n == 1:
            return part
        if torch.compiler.is_compiling():  # a collective that is part of a graph
            return functional.all_reduce(part.float(), "sum", dist.group.WORLD)
        total = part.float()
        dist.all_reduce(total)
        return total

    def joined(self, logits: Tensor, vocab_size: int) -> Tensor:
        """This rank's logits [own] -> those of all ranks, on each of them [vocab]. float32"""
        if self.n == 1:
            return logits
        step = -(-vocab_size // self.n)
        padded = torch.nn.functional.pad(logits, (0, step - logits.shape[0]))
        if torch.compiler.is_compiling():
            return functional.all_gather_tensor(padded, 0, dist.group.WORLD)[:vocab_size]
        parts = padded.new_empty(self.n * step)
        dist.all_gather_into_tensor(parts, padded)
        return parts[:vocab_size]


ONE = Shard()
