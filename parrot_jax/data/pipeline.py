"""Batches by step: the rows of step s depend only on (seed, s), for any number of hosts.

The only file that imports grain. There is no iterator state: resuming at step s means reading batch
s. A process reads only the rows of its own devices.
"""

from collections.abc import Sequence
from typing import Any

import grain
import numpy as np
from numpy.typing import NDArray


class Batches:
    """Shuffled rows over all epochs; each epoch has a different order."""

    def __init__(
        self,
        rows: Sequence[dict[str, NDArray[Any]]],
        *,
        batch_rows: int,
        seed: int,
    ) -> None:
        """Sets up the batches without reading rows.

        Args:
          rows: All rows of the split.
          batch_rows: Rows per step, over all processes.
          seed: Seed of the order.
        """
        self._dataset = grain.MapDataset.source(rows).seed(seed).shuffle().repeat()
        self._batch_rows = batch_rows

    def __getitem__(self, step: int) -> dict[str, NDArray[Any]]:
        """All rows of step `step` >= 0: arrays of shape [batch_rows, T]."""
        return self.read(step, range(self._batch_rows))

    def read(self, step: int, places: Sequence[int]) -> dict[str, NDArray[Any]]:
        """Some rows of step `step` >= 0.

        Args:
          step: The step.
          places: The rows to read, each in [0, batch_rows); a process reads those it needs.

        Returns:
          Arrays of shape [len(places), T].
        """
        picked: list[Any] = [self._dataset[step * self._batch_rows + place] for place in places]
        return {name: np.stack([row[name] for row in picked]) for name in picked[0]}
