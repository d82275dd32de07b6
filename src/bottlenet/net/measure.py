"""What one run on shapes alone says about each node of a graph: `measure(model, graph, input_size) -> Facts`.

Nothing is computed on photos: the graph runs on fake tensors, which have a shape and no memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bottlenet.errors import InputError
from bottlenet.net.trace import Traced, line_of

Number = int | bool | float

# Batch size of the run on shapes: a prime that is no likely side, channel or token count, so that a number equal
# to it is the batch size and a tensor with it in front has one row a photo.
PROBE_BATCH = 1009


@dataclass
class Facts:
    """What one run on fake tensors says about the nodes of a graph. Shapes are without the batch."""

    shapes: dict[fx.Node, tuple[int, ...]] = field(default_factory=dict)  # tensors with one row a photo
    flops: dict[fx.Node, int] = field(default_factory=dict)  # of one photo; 2 a multiply-add
    fed: set[fx.Node] = field(default_factory=set)  # depends on what is in the photo
    batch: set[fx.Node] = field(default_factory=set)  # is the number of photos
    # sides and counts, the same for all photos of that size
    constants: dict[fx.Node, Number | tuple[int, ...]] = field(default_factory=dict)
    shapes_alone: set[fx.Node] = field(default_factory=set)  # `x.shape`, of which only the numbers in it are used
    mutated: set[fx.Node] = field(default_factory=set)  # changed in place by a later node
    identity_of: dict[fx.Node, fx.Node] = field(default_factory=dict)  # returns that node untouched: nn.Identity
    in_place_on: dict[fx.Node, fx.Node] = field(default_factory=dict)  # returns it changed: nn.ReLU(inplace=True)


class _Measure(fx.Interpreter):
    """Runs a graph once and notes the facts."""

    def __init__(self, model: nn.Module, graph: fx.Graph, counter: FlopCounterMode) -> None:
        super().__init__(model, graph=graph)
        self.facts = Facts()
        self.values: dict[fx.Node, Tensor] = {}
        self.versions: dict[fx.Node, int] = {}  # when the node was run
        self.running = "x"
        self._counter = counter

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = super().get_attr(target, args, kwargs)
        return torch.empty_like(value) if isinstance(value, Tensor) else value

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        module = self.module.get_submodule(target)
        if not any(part.training for part in module.modules()):
            return module(*args, **kwargs)
        # Batch norm counts and averages while training: let it do so on buffers that are not the model's.
        state = {name: torch.empty_like(buffer) for name, buffer in module.named_buffers()}
        return functional_call(module, state, args, kwargs)

    def run_node(self, n: fx.Node) -> Any:
        self.running = str(n.target) if n.op == "call_module" else n.name
        inputs = [node for node in n.all_input_nodes if node in self.values]
        before = {node: self.values[node]._version for node in inputs}
        flops = self._counter.get_total_flops()
        value = super().run_node(n)
        flops = self._counter.get_total_flops() - flops
        facts = self.facts
        if isinstance(value, torch.Size):
            facts.shapes_alone.add(n)
        if n.op == "placeholder" or any(node in facts.fed for node in n.all_input_nodes):
            flops //= PROBE_BATCH
            if not self._note_number(n, value):
                facts.fed.add(n)
        if flops:
            facts.flops[n] = flops
        if isinstance(value, Tensor) and n.op != "output":
            self.values[n], self.versions[n] = value, value._version
            if value.dim() > 1 and value.shape[0] == PROBE_BATCH and n in facts.fed:
                facts.shapes[n] = tuple(value.shape[1:])
            for node in inputs:
                if self.values[node] is value:
                    (facts.identity_of if before[node] == value._version else facts.in_place_on)[n] = node
        return value

    def _note_number(self, node: fx.Node, value: object) -> bool:
        """Whether it is a number that the photo's size and the batch size give, or several such as `x.shape[-2:]`."""
        if isinstance(value, tuple) and value and all(type(each) is int and is_side(each) for each in value):
            self.facts.constants[node] = tuple(value)
            return True
        if not isinstance(value, Number):
            return False
        if isinstance(value, int) and value == PROBE_BATCH:
            self.facts.batch.add(node)
            return True
        if isinstance(value, int) and not is_side(value):
            return False
        self.facts.constants[node] = value
        return True


def is_side(value: int) -> bool:
    """Whether it is no multiple of the number of photos."""
    return value == 0 or value % PROBE_BATCH != 0


@contextmanager
def counting_flops() -> Iterator[FlopCounterMode]:
    """Counts what runs inside, without gradients. Attention takes the path on which its products are seen."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def measure(model: nn.Module, graph: fx.Graph, input_size: tuple[int, int, int]) -> Facts:
    """Runs the graph on the shape of a batch. In the graph, uses of a tensor behind an in-place operation on it
    are moved to the operation's result: the same tensor, but then one node for what it is at each place.

    `input_size` is (channels, height, width).

    InputError: the model does not run on that input.
    """
    first = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    with torch.inference_mode(False), FakeTensorMode(allow_non_fake_inputs=True), counting_flops() as counter:
        run = _Measure(model, graph, counter)
        try:
            run.run(torch.empty(PROBE_BATCH, *input_size, dtype=first.dtype, device=first.device))
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise InputError(
                f"{type(model).__name__} can't be cut: what `{run.running}` does{line_of(error, __file__)} depends on "
                "the values of its tensors, so that no cut holds for every photo; choose with torch.where, in a "
                "function of your own that returns the network so, named package.module:function"
            ) from error
        except Exception as error:
            what = str(error).strip().partition("\n")[0]
            raise InputError(
                f"{type(model).__name__} does not run on an input of {input_size} (channels, height, width): "
                f"at `{run.running}`: {what}; give the input_size that it was made for"
            ) from error
    facts = run.facts
    known = facts.constants.keys() | facts.batch
    facts.shapes_alone = {node for node in facts.shapes_alone if node not in known and known >= node.users.keys()}
    facts.fed -= facts.shapes_alone
    facts.mutated = {node for node, value in run.values.items() if value._version != run.versions[node]}
    _use_results(graph, facts.in_place_on)
    return facts


def carry_over(facts: Facts, measured: Traced, other: Traced) -> Facts:
    """The facts that hold for another trace of the same model too: all but shapes and FLOPs."""
    twin = {measured.at(key): node for key, node in [*other.nodes.items(), *other.outputs.items()]}
    twin |= dict(
        zip(measured.graph.find_nodes(op="placeholder"), other.graph.find_nodes(op="placeholder"), strict=True)
    )
    found = Facts(
        batch={twin[node] for node in facts.batch if node in twin},
        shapes_alone={twin[node] for node in facts.shapes_alone if node in twin},
        constants={twin[node]: value for node, value in facts.constants.items() if node in twin},
        mutated={twin[node] for node in facts.mutated if node in twin},
        in_place_on={twin[a]: twin[b] for a, b in facts.in_place_on.items() if a in twin and b in twin},
    )
    _use_results(other.graph, found.in_place_on)
    for node in other.graph.nodes:
        fed = node.op == "placeholder" or any(source in found.fed for source in node.all_input_nodes)
        if fed and node not in found.batch | found.shapes_alone and node not in found.constants:
            found.fed.add(node)
    return found


def _use_results(graph: fx.Graph, in_place_on: dict[fx.Node, fx.Node]) -> None:
    """Uses of a tensor behind an in-place operation on it become uses of the operation's result."""
    order = {node: place for place, node in enumerate(graph.nodes)}
    for operation, changed in in_place_on.items():
        for user in [user for user in changed.users if order[user] > order[operation]]:
            user.replace_input_with(changed, operation)
