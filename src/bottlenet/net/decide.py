"""What an `if` in a forward comes to, where the photo's size decides it: `Decider.decide(node)`.

The graph so far runs on tensors that have a shape and a dtype and nothing else. What they decide, such as
`if height % 7` or `if x.dtype != dtype`, holds for every photo of that size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

BATCHES = (1, 1008)  # numbers of photos: what comes out different for these depends on it


class Decider:
    """Of one trace of `model` for photos of `input_size`, (channels, height, width)."""

    def __init__(self, model: nn.Module, graph: fx.Graph, input_size: tuple[int, int, int]) -> None:
        first = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
        self.running = False
        self._runs = [_Run(model, graph, (batch, *input_size), first) for batch in BATCHES]

    def decide(self, node: fx.Node) -> bool | None:
        """The truth of a node's value; None where it takes the photo, or the number of photos, to know."""
        with self._without_recording():
            try:
                values = {run.truth(node) for run in self._runs}
            except Exception:  # code that is not ours; the trace then says what it could not do
                return None
        return values.pop() if len(values) == 1 else None

    @contextmanager
    def _without_recording(self) -> Iterator[None]:
        self.running = True
        try:
            yield
        finally:
            self.running = False


class _Run:
    """As much of the graph as was needed until now, on one batch."""

    def __init__(self, model: nn.Module, graph: fx.Graph, shape: tuple[int, ...], like: Tensor) -> None:
        self.graph, self.shape, self.like = graph, shape, like
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._start: Callable[[], fx.Interpreter] = lambda: fx.Interpreter(
            model, garbage_collect_values=False, graph=graph
        )
        self.interpreter: fx.Interpreter | None = None

    def truth(self, node: fx.Node) -> bool | None:
        with torch.inference_mode(False), torch.no_grad(), self.mode:
            if self.interpreter is None:
                self.interpreter = self._start()
                x = torch.empty(self.shape, dtype=self.like.dtype, device=self.like.device)
                self.interpreter.args_iter = iter([x])
            env: dict[fx.Node, Any] = self.interpreter.env
            needed, new = {node}, [node]
            while new:
                new = [each for each in new.pop().all_input_nodes if each not in env and each not in needed] + new
                needed |= set(new)
            for each in self.graph.nodes:
                if each in needed:
                    env[each] = self.interpreter.run_node(each)
        value = env[node]
        return None if isinstance(value, Tensor) else bool(value)
