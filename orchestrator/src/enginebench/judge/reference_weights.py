"""Over which weights an engine's answers are judged: the model's, or the file that the engine made of it and named.

Such a file must lie in the engine's own folder and be the model in fewer bits (`models.made_weights`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from enginebench_models.checkpoint import Checkpoint
from enginebench_models.errors import ModelError
from enginebench_models.made_weights import MadeWeights, made_weights
from enginebench_models.plain_name import Stray, own_file
from enginebench_models.reference_cache import default_folder

Source = Checkpoint | MadeWeights


class BadWeights(Exception):
    """The engine computes with weights that are not the model's."""


@dataclass
class ReferenceWeights:
    """Examines a file when it is first named, and again when it has changed since."""

    remembered: Path = field(default_factory=default_folder)
    _examined: dict[tuple[str, int, int, int], MadeWeights] = field(default_factory=dict)

    def of(self, original: Checkpoint, weights_path: str, folder: Path) -> Source:
        """`folder`: the engine's. Raises BadWeights."""
        if not weights_path:
            return original
        try:
            path = own_file(weights_path, folder, "the file of weights that the engine names")
        except Stray as error:
            raise BadWeights(str(error)) from None
        state = path.stat()
        key = (str(path), state.st_ino, state.st_size, state.st_mtime_ns)
        if key not in self._examined:
            try:
                self._examined[key] = made_weights(path, original, self.remembered)
            except ModelError as error:
                raise BadWeights(f"{error}; remove the file, and the engine makes it anew") from None
        return self._examined[key]

    def give_back(self) -> None:
        """Every page of these files leaves this process, as Checkpoint.give_back."""
        for weights in self._examined.values():
            weights.checkpoint.give_back()
