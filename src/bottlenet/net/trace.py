"""A classifier as a graph in which every place has a key and a name.

model --trace--> Traced (nodes, names) --measure--> Facts (shapes, FLOPs, what aliases what)
"""

from __future__ import annotations

import operator
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from bottlenet.errors import InputError
from bottlenet.net.decide import Decider

Key = tuple[int, ...]
Size = tuple[int, int, int]


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
        """The node at a place, or None where this trace does not go that deep."""
        return self.outputs.get(key) or self.nodes.get(key)


class _Proxy(fx.Proxy):
    """Traces `x += y` and `x[i] = y` as what they are. fx makes x + y of the first, which is wrong wherever the
    tensor has a second name, and refuses the second.
    """

    def __iadd__(self, other: object) -> fx.Proxy:
        return self._in_place(operator.iadd, other)

    def __isub__(self, other: object) -> fx.Proxy:
        return self._in_place(operator.isub, other)

    def __imul__(self, other: object) -> fx.Proxy:
        return self._in_place(operator.imul, other)

    def __itruediv__(self, other: object) -> fx.Proxy:
        return self._in_place(operator.itruediv, other)

    def __setitem__(self, *index_and_value: object) -> None:
        self._in_place(operator.setitem, *index_and_value)

    def _in_place(self, operation: Callable[..., Any], *others: object) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operation, (self, *others), {})


class _Tracer(fx.Tracer):
    """Records where each node was made, and leaves modules whole where told to."""

    def __init__(
        self,
        opaque: frozenset[type[nn.Module]],
        towards: Key | None,
        input_size: Size,
        decisions: dict[Key | None, bool],
    ) -> None:
        super().__init__()
        self.opaque = opaque
        self.towards = towards  # go only into calls that lead there; None: into all
        self.input_size = input_size
        self.decisions = decisions  # what an `if` on the node made at that place came to, in an earlier trace or this
        self.decider: Decider | None = None
        self.paths: dict[int, tuple[str, Tensor]] = {}  # of the root's parameters and buffers, by id()
        self.nodes: dict[Key, fx.Node] = {}
        self.outputs: dict[Key, fx.Node] = {}
        self.names: dict[str, Key] = {}
        self.failed: nn.Module | None = None  # innermost module whose forward did not trace
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
        """What an `if` comes to, where the photo's size decides it."""
        key = next((key for key, node in reversed(self.nodes.items()) if node is obj.node), None)
        truth = self.decisions.get(key)
        if truth is None:
            if self.decider is None:
                self.decider = Decider(self.root, self.graph, self.input_size)
            truth = self.decider.decide(obj.node)
            self.decisions |= {} if key is None or truth is None else {key: truth}
        return super().to_bool(obj) if truth is None else truth

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """A parameter or buffer as a node: a buffer that forward changes must change when the graph runs, not now.

        fx has the same, but goes through all of them to find the path of each.
        """
        path, _ = self.paths.get(id(attr_val), (None, None))
        if path is None or (self.decider is not None and self.decider.running):
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
        if m not in (self.submodule_paths or {}) or (self.decider is not None and self.decider.running):
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
        if (self.towards is not None and self.towards[: len(self._key)] != self._key) or self._key == self.towards:
            return True
        return type(m) in self.opaque or super().is_leaf_module(m, module_qualified_name)

    def _name(self, stem: str, key: Key, is_module: bool = False) -> None:
        """The first place of that name is called so, later ones get _1, _2; a module's path stays the module's."""
        paths = (self.submodule_paths or {}).values()
        name, again = stem, 0
        while name in self.names or (name in paths and not (is_module and name == stem)):
            again += 1
            name = f"{stem}_{again}"
        self.names[name] = key


@contextmanager
def traced(model: nn.Module, input_size: Size) -> Iterator[Callable[..., Traced]]:
    """Gives `trace`, for photos of `input_size`, (channels, height, width). What tracing leaves on the modules
    (constants, `self.last = x`) is taken off again at the end.
    """
    restore = _snapshot(model)
    buffers = [(module._buffers, dict(module._buffers)) for module in model.modules()]
    decisions: dict[Key | None, bool] = {}

    def trace(towards: Key | None = None, opaque: frozenset[type[nn.Module]] = frozenset()) -> Traced:
        """As deep as it goes, or with `towards` only into the calls that lead to that place.

        InputError: the forward of the model itself can't be traced.
        """
        while True:
            tracer = _Tracer(opaque, towards, input_size, decisions)
            restore()  # of what the last trace left there
            try:
                graph = tracer.trace(model)
            except Exception as error:
                if tracer.failed is None or type(tracer.failed) in opaque or tracer.failed is model:
                    raise _untraceable(model, error) from error
                opaque |= {type(tracer.failed)}  # leave that kind whole; cuts beside it are still found
            else:
                for now, before in buffers:
                    now.update(before)  # what forward changed is a proxy now, which would go on to trace
                return Traced(graph, tracer.nodes, tracer.outputs, tracer.names, opaque)

    try:
        yield trace
    finally:
        restore()


def _snapshot(model: nn.Module) -> Callable[[], None]:
    """What puts the modules' attributes back as they are now, and what is in their lists and dicts: forward may keep
    things there, such as a bias for each device.
    """
    attributes = [(module, dict(vars(module))) for module in model.modules()]
    kept = [value for _, values in attributes for value in values.values() if type(value) in (dict, list)]
    contents = [(value, value.copy()) for value in kept]

    def restore() -> None:
        for module, values in attributes:
            vars(module).clear()
            vars(module).update(values)
        for value, before in contents:
            if isinstance(value, list):
                value[:] = before
            else:
                value.clear()
                value.update(before)

    return restore


def line_of(error: Exception, *own: str) -> str:
    """` at file:line (the line)` of the code that is neither torch's nor in the files `own`; or nothing."""
    own_paths = (Path(torch.__file__).parent, *map(Path, own))
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not any(Path(frame.filename).is_relative_to(path) for path in own_paths)
    ]
    return f" at {frames[-1].filename}:{frames[-1].lineno} ({frames[-1].line})" if frames else ""


def _untraceable(model: nn.Module, error: Exception) -> InputError:
    where = line_of(error, __file__)
    what = str(error).strip().partition("\n")[0]
    return InputError(
        f"the forward of {type(model).__name__} can't be traced{where}: {type(error).__name__}: {what}; lines that "
        "decide by no photo's values can move into a submodule, which is then left whole; else choose with "
        "torch.where, in a function of your own that returns the network so, named package.module:function"
    )
