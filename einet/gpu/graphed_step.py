"""A training step as a CUDA graph: recorded once, then replayed without waiting for the CPU to launch its kernels.

Source: not in the paper
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class GraphedStep:
    """A step of training that is recorded as a CUDA graph, and replayed for every batch of the same size.

    The step's input is the batch, the indices of its rows; all else that it reads stays where it is in memory. Batches
    of an epoch have one of two sizes, so there are two recordings. The first steps run as usual, on a stream of their
    own as CUDA demands, so that everything is compiled and allocated by then. A recording has the step size as it was,
    and is made anew when that has changed.

    Args:
        step: takes a batch (B,) of indices of rows, and returns what is to be summed over an epoch.
        step_size: returns the present step size.
        device: of the model and all its rows.
    """

    WARM_UP = 3

    def __init__(self, step: Callable[[Tensor], Tensor], step_size: Callable[[], float], device: torch.device):
        self.run, self.step_size, self.device = step, step_size, device
        self.stream, self.steps, self.recorded_size = torch.cuda.Stream(device), 0, None
        self.recordings: dict[int, tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}  # by size: graph, batch, value

    def step(self, batch: Tensor) -> Tensor:
        """One step; its value, in a tensor that a later step overwrites."""
        self.steps += 1
        if self.steps <= self.WARM_UP:
            return self._aside(batch)
        if self.step_size() != self.recorded_size:
            self.recordings, self.recorded_size = {}, self.step_size()
        if len(batch) not in self.recordings:
            self.recordings[len(batch)] = self._recorded(batch)
        graph, place, value = self.recordings[len(batch)]
        place.copy_(batch)
        graph.replay()
        return value

    def _recorded(self, batch: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        graph, place = torch.cuda.CUDAGraph(), batch.clone()
        with torch.cuda.graph(graph, stream=self.stream):
            value = self.run(place)
        return graph, place, value

    def _aside(self, batch: Tensor) -> Tensor:
        current = torch.cuda.current_stream()
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            value = self.run(batch)
        current.wait_stream(self.stream)
        return value
