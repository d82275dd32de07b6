"""Trace a classifier as a graph in which every place has a key and a name, and learn from shapes alone what it does.

model --trace--> Traced (nodes, names) --shape_facts--> Facts (shapes, FLOPs, aliases)

Nothing is computed on photos: the graph runs on fake tensors, which have a shape and a dtype and no memory. An `if`
in a forward that the photo's size or dtype decides, such as `if height % 7`, is settled in the same way while tracing
(`Branches`), as it holds for every photo of that size.
"""

import logging
import operator
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partialmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bottlenet.errors import InputError, reason

Key = tuple[int, ...]
Size = tuple[int, int, int]
Kinds = frozenset[type[nn.Module]]


@dataclass(frozen=True)
class Traced:
    """A graph, and each node's place in the nesting of module calls.

    A key is the path of event numbers from the root's forward inwards: the third thing that the second thing in the
    root's forward does is (1, 2). Parameters don't count, so a place has the same key however many of the modules
    beside it are traced through or left whole.
    """

    graph: fx.Graph
    nodes: dict[Key, fx.Node]  # operations, by where they happen
    outputs: dict[Key, fx.Node]  # module calls, by where they happen: the node that they return
    names: dict[str, Key]  # `layer1.0`, `layer1.0.relu_1`, ...: every place that returns one tensor
    opaque: frozenset[type[nn.Module]]  # kinds of module that can't be traced and are left whole

    def at(self, key: Key) -> fx.Node | None:
        """Return the node at a place, or None where this trace does not go that deep."""
        return self.outputs.get(key) or self.nodes.get(key)


@contextmanager
def traced(model: nn.Module, input_size: Size) -> Iterator[Callable[..., Traced]]:
    """Yield `trace` for photos of (channels, height, width), and take off what tracing leaves on the modules."""
    check_module(model)
    own_call = bool("forward" in vars(model) or model._forward_hooks or model._forward_pre_hooks)
    restore = snapshot(model)
    buffers = [(module._buffers, dict(module._buffers)) for module in model.modules()]
    decisions: dict[Key | None, bool] = {}

    def trace(towards: Sequence[Key] | None = None, opaque: frozenset[type[nn.Module]] = frozenset()) -> Traced:
        """Trace all, or the calls `towards` some places. InputError: the model's own forward can't be traced."""
        while True:
            tracer = _Tracer(opaque, towards, input_size, decisions, own_call)
            restore()  # of what the last trace left there
            try:
                graph = tracer.trace(model)
            except Exception as error:
                if tracer.failed is None or type(tracer.failed) in opaque or tracer.failed is model:
                    where = f"the forward of {type(model).__name__} can't be traced{line_of(error, __file__)}"
                    raise InputError(f"{where}: {reason(error)}; {MOVE_OR} {BY_WHERE}") from error
                opaque |= {type(tracer.failed)}  # leave that kind whole; cuts beside it are still found
            else:
                for now, before in buffers:
                    now.update(before)  # what forward changed is a proxy now, which would go on to trace
                return Traced(graph, tracer.nodes, tracer.outputs, tracer.names, opaque)

    try:
        yield trace
    finally:
        restore()


class _Proxy(fx.Proxy):
    """Traces `x += y` and `x[i] = y` in place: x + y, as fx has it, is wrong where the tensor has a second name."""

    def _in_place(self, operation: Callable[..., Any], *others: object) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operation, (self, *others), {})

    __iadd__ = partialmethod(_in_place, operator.iadd)
    __isub__ = partialmethod(_in_place, operator.isub)
    __imul__ = partialmethod(_in_place, operator.imul)
    __itruediv__ = partialmethod(_in_place, operator.itruediv)
    __setitem__ = partialmethod(_in_place, operator.setitem)


class _Tracer(fx.Tracer):
    """Records where each node comes from, and leaves modules whole on request."""

    def __init__(
        self,
        opaque: Kinds,
        towards: Sequence[Key] | None,
        input_size: Size,
        decisions: dict[Key | None, bool],
        own_call: bool,
    ) -> None:
        super().__init__()
        self.opaque = opaque
        self.towards = towards  # go only into calls that lead to one of these; None: into all
        self.input_size = input_size
        self.decisions = decisions  # what an `if` on the node made at that place came to, in an earlier trace or this
        self.branches: Branches | None = None
        self.paths: dict[int, tuple[str, Tensor]] = {}  # of the root's parameters and buffers, by id()
        self.nodes: dict[Key, fx.Node] = {}
        self.outputs: dict[Key, fx.Node] = {}
        self.names: dict[str, Key] = {}
        self.failed: nn.Module | None = None  # innermost module whose forward did not trace
        if own_call:  # hooks of the root's own, and a forward that was set on it
            self.traced_func_name = "__call__"
        self._key: Key = ()
        self._events = [0]

    def _event(self) -> Key:
        self._events[-1] += 1
        return (*self._key, self._events[-1] - 1)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        tensors = (*self.root.named_parameters(), *self.root.named_buffers())
        self.paths = {id(tensor): (path, tensor) for path, tensor in tensors}
        # One tensor goes in. Python fills in the defaults of everything else, so that `if mask is None` sees a None.
        return root_fn, [self.root, self.create_proxy("placeholder", "x", (), {})]

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Follow the branch that the photo's size decides."""
        key = next((key for key, node in reversed(self.nodes.items()) if node is obj.node), None)
        truth = self.decisions.get(key)
        if truth is None:
            if self.branches is None:
                self.branches = Branches(self.root, self.graph, self.input_size)
            truth = self.branches.truth_of(obj.node)
            self.decisions |= {} if key is None or truth is None else {key: truth}
        return super().to_bool(obj) if truth is None else truth

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Return a parameter or buffer as a node, as fx does, which would go through all to find the path of each."""
        path, _ = self.paths.get(id(attr_val), (None, None))
        if path is None or (self.branches is not None and self.branches.running):
            return attr_val
        if path not in parameter_proxy_cache:
            parameter_proxy_cache[path] = self.create_proxy("get_attr", path, (), {})
        return parameter_proxy_cache[path]

    def create_node(self, kind: str, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(kind, *args, **kwargs)
        if kind in ("call_function", "call_method"):  # modules have their place and name from their call
            key = self._event()
            self.nodes[key] = node
            path = next(reversed(self.module_stack.values()))[0] if self.module_stack else ""
            operation = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "call")
            self._name(f"{path}.{operation}" if path else operation, key)
        return node

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if m not in (self.submodule_paths or {}) or (self.branches is not None and self.branches.running):
            return forward(*args, **kwargs)  # made on the fly, such as nn.ReLU()(x)
        outside, self._key = self._key, self._event()
        key = self._key
        self._name(self.path_of_module(m), key, is_module=True)
        self._events.append(0)
        try:
            result = super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed = self.failed or m
            raise
        finally:
            self._events.pop()
            self._key = outside
        if isinstance(result, fx.Proxy):
            self.outputs[key] = result.node
        return result

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        inside = (len(key) > len(self._key) and key[: len(self._key)] == self._key for key in self.towards or ())
        if self.towards is not None and not any(inside):
            return True
        return type(m) in self.opaque or super().is_leaf_module(m, module_qualified_name)

    def _name(self, stem: str, key: Key, is_module: bool = False) -> None:
        """Name a place after `stem`: the first one so, later ones with _1, _2; a module's path stays the module's."""
        paths = (self.submodule_paths or {}).values()
        name, again = stem, 0
        while name in self.names or (name in paths and not (is_module and name == stem)):
            again += 1
            name = f"{stem}_{again}"
        self.names[name] = key


def snapshot(model: nn.Module) -> Callable[[], None]:
    """Return a function that restores the modules' attributes, and their lists and dicts, which forward may change."""
    attributes = [(module, dict(vars(module))) for module in model.modules()]
    kept = [value for _, values in attributes for value in values.values() if type(value) in (dict, list)]
    containers = [(value, value.copy()) for value in kept]

    def restore() -> None:
        for module, values in attributes:
            vars(module).clear()
            vars(module).update(values)
        for value, before in containers:
            if isinstance(value, list):
                value[:] = before
            else:
                value.clear()
                value.update(before)

    return restore


def check_module(model: nn.Module) -> None:
    """Raise InputError for what is no module, or has no forward of its own."""
    name = type(model).__name__
    if not isinstance(model, nn.Module):
        raise InputError(f"the network is a {name}; give a torch.nn.Module, such as Classifier.module")
    if hasattr(model, "_orig_mod"):
        raise InputError(f"{name}: it is compiled; give the module that was given to torch.compile, model._orig_mod")
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(f"{name}: it is a TorchScript module, which has no Python to trace; give the nn.Module")


def line_of(error: Exception, *own: str) -> str:
    """Return ` at file:line (the line)` of the code that is neither torch's nor in the files `own`; or nothing."""
    own_paths = (Path(torch.__file__).parent, *map(Path, own))
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not any(Path(frame.filename).is_relative_to(path) for path in own_paths):
            return f" at {frame.filename}:{frame.lineno} ({frame.line})"
    return ""


MOVE_OR = "lines that decide by no photo's values can move into a submodule, which is left whole; else"
BY_WHERE = "choose with torch.where, in your own package.module:function that returns the network so"
BATCHES = (1, 1008)  # numbers of photos: what comes out different for these depends on it


class Branches:
    """Settles the branches of one trace of `model` for photos of `input_size`, (channels, height, width)."""

    def __init__(self, model: nn.Module, graph: fx.Graph, input_size: tuple[int, int, int]) -> None:
        first = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
        self.running = False
        self._runs = [_Run(model, graph, (batch, *input_size), first) for batch in BATCHES]

    def truth_of(self, node: fx.Node) -> bool | None:
        """Return the truth of a node's value; None where it depends on the photo, or on the number of photos."""
        self.running = True  # so that nothing of it is recorded
        try:
            values = {run.truth(node) for run in self._runs}
        except Exception:  # code that is not ours; the trace then says what it could not do
            return None
        finally:
            self.running = False
        return values.pop() if len(values) == 1 else None


class _Run:
    """Runs as much of the graph as was needed until now, on one batch."""

    def __init__(self, model: nn.Module, graph: fx.Graph, shape: tuple[int, ...], like: Tensor) -> None:
        self.model, self.graph, self.shape, self.like = model, graph, shape, like
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)

    @cached_property
    def interpreter(self) -> fx.Interpreter:
        interpreter = fx.Interpreter(self.model, garbage_collect_values=False, graph=self.graph)
        interpreter.args_iter = iter([torch.empty(self.shape, dtype=self.like.dtype, device=self.like.device)])
        return interpreter

    def truth(self, node: fx.Node) -> bool | None:
        with torch.inference_mode(False), torch.no_grad(), self.mode:
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


def shape_facts(model: nn.Module, graph: fx.Graph, input_size: tuple[int, int, int]) -> Facts:
    """Run the graph on the shape of a batch of (channels, height, width). In the graph, uses of a tensor behind an
    in-place operation on it are moved to the operation's result. InputError: the model does not run on that input.
    """
    first = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with torch.inference_mode(False), quiet("torch._subclasses"), fake, counting_flops() as counter:
        run = _ShapeRun(model, graph, counter)
        try:
            run.run(torch.empty(PROBE_BATCH, *input_size, dtype=first.dtype, device=first.device))
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            why = f"what `{run.running}` does{line_of(error, __file__)} depends on the values of its tensors"
            raise InputError(f"{type(model).__name__} can't be cut: {why}, so no cut is for all; {BY_WHERE}") from error
        except Exception as error:
            where = f"{type(model).__name__} does not run on an input of {input_size} (channels, height, width)"
            what = f"at `{run.running}`: {reason(error)}; {advice_on(error, input_size[0])}"
            raise InputError(f"{where}: {what}") from error
    facts = run.facts
    known = facts.constants.keys() | facts.batch
    facts.shapes_alone = {node for node in facts.shapes_alone if node not in known and known >= node.users.keys()}
    facts.fed -= facts.shapes_alone
    facts.mutated = {node for node, value in run.values.items() if value._version != run.versions[node]}
    _use_results(graph, facts.in_place_on)
    return facts


class _ShapeRun(fx.Interpreter):
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
        if not any(each.training for each in module.modules()):
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
        """Note a number, or several such as `x.shape[-2:]`, that photo and batch sizes give; False: something else."""
        if isinstance(value, tuple) and value and all(type(each) is int and is_side(each) for each in value):
            self.facts.constants[node] = tuple(value)
            return True
        if not isinstance(value, Number) or (isinstance(value, int) and value != PROBE_BATCH and not is_side(value)):
            return False
        if isinstance(value, int) and value == PROBE_BATCH:
            self.facts.batch.add(node)
        else:
            self.facts.constants[node] = value
        return True


def is_side(value: int) -> bool:
    """Tell if a number is no multiple of the number of photos."""
    return value == 0 or value % PROBE_BATCH != 0


@contextmanager
def quiet(logger: str) -> Iterator[None]:
    """Silence a logger and those below it: torch logs what it raises as well, on hundreds of lines."""
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


@contextmanager
def counting_flops() -> Iterator[FlopCounterMode]:
    """Count the FLOPs inside, without gradients; attention takes the path on which its products are visible."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def count_flops(module: nn.Module, example: Tensor) -> int:
    """Count the FLOPs of one run on `example`, as in `Cut.head_flops`; the run is real, without gradients."""
    with counting_flops() as counter:
        module(example)
    return int(counter.get_total_flops())


def advice_on(error: Exception, channels: int) -> str:
    """Say what to do about a network that does not run on photos of so many channels."""
    if (other := re.search(r"to have (\d+) channels, but got (\d+)", str(error))) and int(other[2]) == channels:
        return f"it takes {other[1]} channels, and photos have {channels}: wrap it in a module that makes those of them"
    return "give the size that it was made for"


def carry_over(facts: Facts, measured: Traced, other: Traced) -> Facts:
    """Transfer the facts that hold for another trace of the same model too: all but shapes and FLOPs."""
    twin = {measured.at(key): node for key, node in [*other.nodes.items(), *other.outputs.items()]}
    photos = (each.graph.find_nodes(op="placeholder") for each in (measured, other))
    twin |= dict(zip(*photos, strict=True))
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
    """Let uses of a tensor behind an in-place operation on it be uses of the operation's result."""
    order = {node: place for place, node in enumerate(graph.nodes)}
    for operation, changed in in_place_on.items():
        for user in [user for user in changed.users if order[user] > order[operation]]:
            user.replace_input_with(changed, operation)
