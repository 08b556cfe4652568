"""Training in less memory: a batch goes through the networks in parts, whose gradients are added up before the optimizer steps.

The batch, its noise, its levels and its pairs are the same, so the gradient is that of the complete batch up to the rounding of its sums.
Dropout draws other masks, one per part. Not part of a run's identity, like the number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch

from harness.errors import HarnessError
from harness.metrics.sampling import out_of_memory
from harness.training.batches import Step

Result = TypeVar("Result")


@dataclass
class MicroBatch:
    """The number of rows that go through the networks at once. shrinks: halve it where the GPU's memory runs out.

    Several processes must agree on it, so they keep the chosen number.
    """

    rows: int
    shrinks: bool = True
    note: Callable[[str], None] = print

    def attempt(self, function: Callable[[int], Result], clear: Callable[[], None] = lambda: None) -> Result:
        """function(rows), again with half the rows as often as the memory runs out. clear: frees what a failed call has left.

        Raises HarnessError if one row is too many, or if the number must not change.
        """
        while True:
            try:
                return function(self.rows)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if self.rows == 1 or not self.shrinks:
                    fix = f"--micro-batch {max(1, self.rows // 2)}" if self.rows > 1 else "a GPU with more memory"
                    cause = f"{self.rows} row{'s' * (self.rows > 1)} at once: {str(error).splitlines()[0]}"
                    raise HarnessError("the memory of the GPU is too small", found=cause, nearest=fix) from error
            # outside of the handler, which keeps the tensors of the failed call alive
            self.rows = (self.rows + 1) // 2
            clear()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.note(f"out of memory; from now on at most {self.rows} rows go through the networks at once")


def parts(step: Step, rows: int) -> Iterator[Step]:
    """The step in parts of at most `rows` rows, in order; the step itself if it has no more."""
    count = len(step.x)
    if count <= rows:
        yield step
        return
    for start in range(0, count, rows):
        piece = slice(start, start + rows)
        labels = None if step.labels is None else step.labels[piece]
        yield Step(step.x[piece], step.z[piece], labels, step.low[piece], step.high[piece], step.weight[piece])
