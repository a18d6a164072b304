"""Batches by step: the rows of step s are a function of (seed, s), on any number of hosts.

The only file that imports grain. There is no iterator to save: resuming at step s means asking for
batch s.
"""

from typing import Any

import grain
import numpy as np
from numpy.typing import NDArray

from parrot_jax.core.errors import UserError
from parrot_jax.data.prepare import RowFiles


class Batches:
    """Shuffled rows, epoch after epoch, each epoch in an order of its own."""

    def __init__(
        self,
        rows: RowFiles,
        *,
        batch_rows: int,
        seed: int,
        num_hosts: int = 1,
        host: int = 0,
    ) -> None:
        """Describes the batches; nothing is read yet.

        Args:
          rows: All rows of the split.
          batch_rows: Rows in one step over all hosts.
          seed: Decides the order.
          num_hosts: Processes that share a batch; must divide `batch_rows`.
          host: This process, in [0, num_hosts).

        Raises:
          UserError: The hosts cannot share the batch evenly.
        """
        if batch_rows % num_hosts:
            raise UserError(
                f"batch_rows is {batch_rows}, which {num_hosts} hosts cannot share evenly; "
                "set it to a multiple."
            )
        self._dataset = grain.MapDataset.source(rows).seed(seed).shuffle().repeat()
        self._batch_rows = batch_rows
        self._mine = range(host * batch_rows // num_hosts, (host + 1) * batch_rows // num_hosts)

    def __getitem__(self, step: int) -> dict[str, NDArray[Any]]:
        """This host's rows of step `step` >= 0: arrays of shape [batch_rows / num_hosts, T]."""
        picked: list[Any] = [self._dataset[step * self._batch_rows + index] for index in self._mine]
        return {name: np.stack([row[name] for row in picked]) for name in picked[0]}
