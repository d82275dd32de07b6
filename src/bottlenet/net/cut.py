"""Find where a classifier can be cut, and cut it in two.

    photo -> head -> features -> tail -> scores         tail(head(x)) == model(x), bit for bit

A cut is a place where exactly one tensor crosses: a skip connection that runs past it makes it no cut. It is named
by the outermost module that returns the tensor (`layer1.0`, `features.3`, `blocks.8`), the second and later call
of a module by `relu_1`, `relu_2`, and a place inside a module by the module and the operation (`layer1.0.add`).

Up to four tensors may cross together, such as the skips of a U-Net or the scales of a detector's neck: a cut that is
a set has their names with + between them. Its features are a row (B, N), the numbers of one tensor behind those of
the other.

FLOPs are those of convolutions, matrix products and attention, two a multiply-add (torch.utils.flop_counter);
operations element by element count nothing.
"""

from __future__ import annotations

import difflib
import itertools
import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from bottlenet.errors import InputError, reason
from bottlenet.net.layout import Layout, SetLayout, layout_of, same_aspect
from bottlenet.net.trace import Facts, Key, Size, Traced, advice_on, carry_over, shape_facts, snapshot, traced


@dataclass(frozen=True)
class Cut:
    """A place where one tensor crosses, or several."""

    name: str
    # of the features, without batch: (C, H, W), (H, W, C), (N, C) tokens; (C,) behind pooling; (N,) of a set
    shape: tuple[int, ...]
    elements: int  # of the features of one photo
    head_flops: int  # FLOPs of the head for one photo
    head_flops_share: float  # of the whole network, 0..1
    layout: Layout | SetLayout | None = None  # the grid of channels in them; None: no unit can go there

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of what crosses."""
        return tuple(self.name.split("+"))


@dataclass(frozen=True)
class Split:
    """A model in two halves, which share its parameters and buffers under their names in the model."""

    head: nn.Module = field(repr=False)  # (B, 3, S, S) float -> features (B, *cut.shape)
    tail: nn.Module = field(repr=False)  # features (B, *cut.shape) -> scores (B, classes)
    cut: Cut


MAX_TENSORS = 4  # of a set


def cuts(model: nn.Module, input_size: Size = (3, 224, 224), *, tensors: int = 1) -> tuple[Cut, ...]:
    """List every cut of a classifier, from the photo to the scores, which are no cuts themselves.

    `input_size` is (channels, height, width). With `tensors`, 2 to 4, sets of up to so many are listed, too: those that
    cross somewhere on the way, in the order in which the network runs.

    InputError: the model's forward can't be traced (torch.fx), or does not run on that size.
    """
    with traced(model, input_size) as trace:
        whole = trace()
        found = _Found(whole, shape_facts(model, whole.graph, input_size), input_size)
        places = [*dict.fromkeys(found.places.values()), *(found.sets(tensors) if tensors > 1 else ())]
        return tuple(place.cut for place in sorted(places, key=lambda place: found.order[place.nodes[-1]]))


def split(model: nn.Module, cut: str, input_size: Size = (3, 224, 224)) -> Split:
    """Cut a model in two. Besides the cut's own name, those of the modules inside that return the same tensor are
    taken: `layer1.2` where `layer1` ends with it. Of a set the names stand in any order.

    Modules on one side of the cut are used as they are, in the mode they are in, and follow `train()` and `eval()`
    later; the code around the cut is unrolled in the mode it is in now. Where the tail changes the features in place,
    it works on a copy.

    Where the model is in eval mode, both halves run on two photos, and give what the model gives when it is called.

    InputError: not a cut of this model, halves that give something else, or see `cuts`.
    """
    with traced(model, input_size) as trace:
        whole = trace()
        facts = shape_facts(model, whole.graph, input_size)
        place = _Found(whole, facts, input_size).place(cut, type(model).__name__)
        graph, nodes = whole.graph, place.nodes
        shapes = [facts.shapes[node] for node in nodes]
        try:
            shallow = trace(towards=place.keys, opaque=whole.opaque)
        except InputError:
            pass  # a module left whole returns what the code around it takes apart: keep all unrolled
        else:
            facts_there, there = carry_over(facts, whole, shallow), [shallow.at(key) for key in place.keys]
            # Where a module left whole returns several tensors, what takes them apart shifts the keys behind it.
            same_keys = shallow.outputs.keys() <= whole.outputs.keys()
            known = [node for node in there if node is not None]
            if same_keys and len(known) == len(nodes) and _separates(shallow.graph, facts_there, known):
                graph, facts, nodes = shallow.graph, facts_there, tuple(known)
        device = _device(graph, facts, nodes)
        head = _head(model, graph, facts, nodes, device)
        halves = Split(head, _tail(model, graph, facts, nodes, device, shapes), place.cut)
    if not any(module.training for module in model.modules()) and not any(p.is_meta for p in model.parameters()):
        check_halves(model, halves, input_size)
    return halves


@torch.no_grad()
def check_halves(model: nn.Module, halves: Split, input_size: Size) -> None:
    """Raise InputError where tail(head(x)) is not model(x) as it is called: its forward does what no trace shows."""
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    photos = torch.linspace(-1, 1, 2 * math.prod(input_size), dtype=torch.float32).reshape(2, *input_size).to(like)
    restore, buffers = snapshot(model), {name: buffer.clone() for name, buffer in model.named_buffers()}

    def run(module: nn.Module) -> Tensor:
        scores = module(photos)
        restore()
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
        return scores.float() if isinstance(scores, Tensor) else torch.empty(0)

    try:
        expected, found = run(model), run(nn.Sequential(halves.head, halves.tail))
    except Exception as error:  # code that is not ours
        where = f"{type(model).__name__} does not run on 2 photos of {input_size} (channels, height, width)"
        raise InputError(f"{where}: {reason(error)}; {advice_on(error, input_size[0])}") from error
    if close(found, expected) or not close(run(model), expected):
        return  # the same, or something else at each call
    why = "its forward depends on what a trace doesn't show, such as a global or a counter; move that into a submodule"
    what = f"cut at {halves.cut.name}, {type(model).__name__} gives other scores than when it is called"
    raise InputError(f"{what}: {why}")


def close(one: Tensor, other: Tensor) -> bool:
    """Tell if two tensors are equal but for rounding."""
    most = float(other.abs().max()) if other.numel() else 0.0
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-3, atol=1e-4 * most, equal_nan=True)


def layout_at(cut: Cut) -> Layout | SetLayout:
    """Return the grid of channels at a cut. InputError: there is none."""
    if cut.layout is None and "+" in cut.name:
        raise InputError(f"cut {cut.name!r}: its tensors have no grid of places in common; give another set")
    if cut.layout is None:
        raise InputError(f"cut {cut.name!r} has shape {cut.shape}: a unit needs channels, height and width")
    return cut.layout


@dataclass(frozen=True)
class _Place:
    cut: Cut
    nodes: tuple[fx.Node, ...]  # in the order in which they run
    keys: tuple[Key, ...]  # the outermost calls that return the nodes


class _Found:
    """The places of a graph where it can be cut, and their names."""

    def __init__(self, whole: Traced, facts: Facts, input_size: Size) -> None:
        self.whole, self.facts, self.graph = whole, facts, whole.graph
        self.order = {node: at for at, node in enumerate(whole.graph.nodes)}
        self.names: dict[fx.Node, str] = {}
        for name, key in sorted(whole.names.items(), key=lambda item: len(item[1])):  # outermost first, else in order
            if (node := whole.at(key)) is not None:
                self.names.setdefault(node, name)
        nodes = self.order
        self.ends = {_origin(node, facts) for node in nodes if node.op in ("placeholder", "output")}
        self.ends |= {_origin(node, facts) for node in whole.graph.output_node().all_input_nodes}
        self.layouts = _layouts(whole.graph, facts, input_size)
        self.places = self._places()

    def _places(self) -> dict[fx.Node, _Place]:
        """Map each node that is a cut to its place, in order; nodes that are the same tensor share one."""
        groups: dict[fx.Node, list[fx.Node]] = {}
        for node in _crossing_alone(self.graph, self.facts):
            if node in self.facts.shapes:
                groups.setdefault(_origin(node, self.facts), []).append(node)
        places: dict[fx.Node, _Place] = {}
        for origin, nodes in groups.items():
            if origin not in self.ends:
                places |= dict.fromkeys(nodes, self._place([self._outermost(nodes)]))
        return places

    def _outermost(self, nodes: Iterable[fx.Node]) -> fx.Node:
        return min(nodes, key=lambda node: len(self.whole.names[self.names[node]]))

    def _place(self, nodes: Sequence[fx.Node]) -> _Place:
        facts, names = self.facts, [self.names[node] for node in nodes]
        device, total = _device(self.graph, facts, nodes), sum(facts.flops.values())
        flops = sum(count for each, count in facts.flops.items() if each in device)
        shape = facts.shapes[nodes[0]]
        layout: Layout | SetLayout | None = self.layouts[nodes[0]]
        if len(nodes) > 1:
            shape = (sum(math.prod(facts.shapes[node]) for node in nodes),)
            layout = SetLayout.of([self.layouts[node] for node in nodes])
        share = flops / total if total else 0.0
        cut = Cut("+".join(names), shape, math.prod(shape), flops, share, layout)
        return _Place(cut, tuple(nodes), tuple(self.whole.names[name] for name in names))

    def sets(self, most: int) -> Iterator[_Place]:
        """Find what crosses together, 2 tensors to `most`, wherever the graph is cut in the order in which it runs; and
        the same where each tensor has become as small as it gets by itself, such as by a 1x1 convolution.
        """
        same: dict[fx.Node, list[fx.Node]] = {}
        for node in self.names:
            same.setdefault(_origin(node, self.facts), []).append(node)
        known: set[frozenset[fx.Node]] = set()
        for frontier in self._frontiers(most):
            for origins in (frontier, self._smallest(frontier)):
                if origins in known or not origins <= self.facts.shapes.keys() - self.ends:
                    continue
                known.add(origins)
                nodes = sorted((self._outermost(same[each]) for each in origins), key=self.order.__getitem__)
                if _separates(self.graph, self.facts, nodes):
                    yield self._place(nodes)

    def _frontiers(self, most: int) -> Iterator[frozenset[fx.Node]]:
        """Yield what is used later, by its origins, behind each node."""
        live: dict[fx.Node, int] = {}  # what has come so far -> where it is used last
        for node, at in self.order.items():
            if node in self.facts.fed:
                live[node] = max((self.order[user] for user in node.users if user in self.facts.fed), default=at)
                live = {each: last for each, last in live.items() if last > at}
                origins = frozenset(_origin(each, self.facts) for each in live)
                if 2 <= len(origins) <= most:
                    yield origins

    def _smallest(self, nodes: Iterable[fx.Node]) -> frozenset[fx.Node]:
        """Follow each of several tensors, as long as nothing else is made of it or joins it, to where it has the fewest
        channels at its places.
        """
        facts, ordered = self.facts, sorted(nodes, key=self.order.__getitem__)
        device, found = _device(self.graph, facts, ordered), set[fx.Node]()
        for node in ordered:
            chain = [node]
            while True:
                users = [user for user in chain[-1].users if user in facts.fed and user not in device]
                if len(users) != 1 or sum(source in facts.fed for source in users[0].all_input_nodes) != 1:
                    break
                chain += users
            grids = [(each, layout.grid) for each in chain if (layout := self.layouts.get(each)) is not None]
            least = min((grid[0] for _, grid in grids if grid[1:] == grids[0][1][1:]), default=0)
            same = (each for each, grid in grids if grid == (least, *grids[0][1][1:]))
            found.add(_origin(next(same, node), facts))
        return frozenset(found)

    def place(self, name: str, type_name: str) -> _Place:
        """Look up the place called `name`. InputError: there is none, or it is no cut."""
        if not isinstance(name, str):
            what = f"the cut is given as {type(name).__name__}"
            raise InputError(f"{what}; give its name, as `bottlenet cuts MODEL` lists it")
        by_name = {alias: node for alias, key in self.whole.names.items() if (node := self.whole.at(key)) is not None}
        if (node := by_name.get(name)) in self.places:
            return self.places[node]
        if "+" in name and name not in self.whole.names:
            return self._set([each.strip() for each in name.split("+")], by_name, type_name)
        listed = list(dict.fromkeys(place.cut.name for place in self.places.values()))
        if name not in self.whole.names:
            near = difflib.get_close_matches(name, listed, n=3, cutoff=0.4)
            what = f"is no cut of this {type_name}"
            hint = f"nearest are {', '.join(near)}" if near else f"it has {len(listed)}"
        else:
            what = "is no cut, as something else crosses with it or it is no tensor of features"
            hint = self._around(node)
        raise InputError(f"{name!r} {what}; {hint}; `bottlenet cuts MODEL` lists all")

    def _around(self, node: fx.Node | None) -> str:
        """Name the cuts around a node that is none, and the set that crosses where it does."""
        here = 0 if node is None else self.order[node]
        places = dict.fromkeys(self.places.values())
        before = [place.cut.name for place in places if self.order[place.nodes[0]] < here][-1:]
        behind = [place.cut.name for place in places if self.order[place.nodes[0]] > here][:1]
        hint = f"the cuts around it are {' and '.join(before + behind) or 'none'}"
        if node not in self.facts.shapes:
            return hint
        together = _crossing(self.graph, self.facts, [node])
        named = [self.names[each] for each in together if each in self.names]
        whole = node in together and 1 < len(named) == len(together) <= MAX_TENSORS
        return hint + (f"; together {'+'.join(named)} cross there" if whole else "")

    def _set(self, given: Sequence[str], by_name: dict[str, fx.Node], type_name: str) -> _Place:
        """Look up a set by its tensors' names. InputError: it is none, or does not separate photo and scores."""
        what = f"{'+'.join(given)!r} does not separate photo and scores"
        for each in given:
            if by_name.get(each) not in self.facts.shapes:
                near = difflib.get_close_matches(each, by_name, n=3, cutoff=0.4)
                hint = f"; nearest are {', '.join(near)}" if near else ""
                raise InputError(f"{each!r} is no tensor of features of this {type_name}{hint}")
        nodes = {_origin(by_name[each], self.facts): by_name[each] for each in given}
        if len(nodes) < len(given):
            raise InputError(f"{'+'.join(given)!r}: two of these are one tensor; name each once")
        if len(nodes) > MAX_TENSORS:
            raise InputError(f"{'+'.join(given)!r}: these are {len(nodes)} tensors; give {MAX_TENSORS} or fewer")
        members = sorted(nodes.values(), key=self.order.__getitem__)
        crossing = _crossing(self.graph, self.facts, members)
        if more := [self.names.get(node, "the photo") for node in crossing if node not in nodes]:
            raise InputError(f"{what}: {' and '.join(more[:4])} would have to cross, too")
        if idle := [self.names[node] for origin, node in nodes.items() if origin not in crossing]:
            raise InputError(f"{'+'.join(given)!r}: {idle[0]} is not needed beside the others; leave it out")
        if ends := [self.names[node] for origin, node in nodes.items() if origin in self.ends]:
            raise InputError(f"{'+'.join(given)!r}: {ends[0]} is what the network gives; leave nothing but features")
        return self._place(members)


def _layouts(graph: fx.Graph, facts: Facts, input_size: Size) -> dict[fx.Node, Layout | None]:
    """Find the layout of the features at each node. Tokens have the places of a grid before them."""
    aspect = input_size[1:]
    found: dict[fx.Node, Layout | None] = {}
    sides: dict[tuple[int, int], None] = {}  # H, W of the grids so far, the latest last
    for node in graph.nodes:
        if (shape := facts.shapes.get(node)) is None:
            continue
        layout = found[node] = layout_of(shape, list(sides), aspect)
        if layout is not None and len(shape) == 3 and same_aspect(layout.grid[1:], aspect):
            sides.pop(layout.grid[1:], None)
            sides[layout.grid[1:]] = None
    return found


def _crossing_alone(graph: fx.Graph, facts: Facts) -> list[fx.Node]:
    """List the nodes that nothing else crosses with, in order: nothing from before them is used after them.

    Values that do not depend on the photo do not cross: both sides have the parameters, sides and counts are the same
    for all photos of that size, and the number of photos is the features' first dimension.
    """
    order = {node: at for at, node in enumerate(graph.nodes)}
    found, reach = [], -1  # reach: the last use of anything before
    for node, at in order.items():
        if node not in facts.fed:
            continue
        last_use = max((order[user] for user in node.users if user in facts.fed), default=at)
        if reach <= at < last_use:
            found.append(node)
        reach = max(reach, last_use)
    return found


def _device(graph: fx.Graph, facts: Facts, nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """Find what runs up to these nodes: what they come from, and before the last of them what leads nowhere."""
    device, new = set[fx.Node](), list(nodes)
    while new:
        if (node := new.pop()) not in device:
            device.add(node)
            new += [source for source in node.all_input_nodes if source in facts.fed]
    before = [
        node for node in itertools.takewhile(lambda node: node is not nodes[-1], graph.nodes) if node in facts.fed
    ]
    idle = set[fx.Node]()
    for node in reversed(before):
        if node not in device and all(user in idle for user in node.users if user in facts.fed):
            idle.add(node)
    for node in before:
        if node in idle and all(source in device for source in node.all_input_nodes if source in facts.fed):
            device.add(node)
    return device


def _crossing(graph: fx.Graph, facts: Facts, nodes: Sequence[fx.Node]) -> list[fx.Node]:
    """List the tensors, by their origins, that are used behind these nodes and are there when these are."""
    device = _device(graph, facts, nodes)
    used = (node for node in graph.nodes if any(user in facts.fed and user not in device for user in node.users))
    return list(dict.fromkeys(_origin(node, facts) for node in used if node in device))


def _separates(graph: fx.Graph, facts: Facts, nodes: Sequence[fx.Node]) -> bool:
    """Tell if just these cross together."""
    return set(_crossing(graph, facts, nodes)) == {_origin(node, facts) for node in nodes}


def _origin(node: fx.Node, facts: Facts) -> fx.Node:
    """Follow a node back through nn.Identity and the like to where its tensor comes from."""
    while node in facts.identity_of:
        node = facts.identity_of[node]
    return node


def _head(model: nn.Module, graph: fx.Graph, facts: Facts, cut: Sequence[fx.Node], device: set[fx.Node]) -> nn.Module:
    """Copy everything up to the cut."""
    half, env = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in graph.nodes:
        if node in device or (node not in facts.fed and all(source in env for source in node.all_input_nodes)):
            env[node] = half.node_copy(node, env.__getitem__)
        if node is cut[-1]:
            break
    if len(cut) == 1:
        half.output(env[cut[0]])
    else:
        flat = [half.call_method("flatten", (env[node], 1)) for node in cut]
        half.output(half.call_function(torch.cat, (flat, 1)))
    return _module(model, half, env, facts, "Head")


def _tail(
    model: nn.Module,
    graph: fx.Graph,
    facts: Facts,
    cut: Sequence[fx.Node],
    device: set[fx.Node],
    shapes: Sequence[tuple[int, ...]],
) -> nn.Module:
    """Copy everything behind the cut, and whatever it needs from before that does not depend on the photo."""
    half, env = fx.Graph(), dict[fx.Node, Any](facts.constants)
    features = half.placeholder("features")
    if facts.batch:
        env |= dict.fromkeys(facts.batch, half.call_method("size", (features, 0)))
    crossing = {_origin(node, facts): features for node in cut}
    if len(cut) > 1:
        pieces = half.call_method("split", (features, [math.prod(shape) for shape in shapes], 1))
        for number, (origin, shape) in enumerate(zip(crossing, shapes, strict=True)):
            piece = half.call_function(operator.getitem, (pieces, number))
            crossing[origin] = half.call_method("reshape", (piece, (-1, *shape)))
    for node in graph.nodes:
        if node in device and (taken := crossing.get(_origin(node, facts))) is not None:
            env[node] = half.call_method("clone", (taken,)) if node in facts.mutated else taken
        elif (
            node not in env
            and node not in facts.shapes_alone
            and node not in device
            and (node in facts.fed or node.users)
        ):
            env[node] = half.node_copy(node, env.__getitem__)
    return _module(model, half, env, facts, "Tail")


def _module(model: nn.Module, half: fx.Graph, env: dict[fx.Node, Any], facts: Facts, name: str) -> nn.Module:
    """Wrap a half as a module with the model's own parameters and buffers."""
    copies = {copy: node for node, copy in env.items() if isinstance(copy, fx.Node)}
    for copy, node in reversed(copies.items()):
        unused = not copy.users and (node.users or node in facts.batch)
        if unused and node not in facts.fed:  # needed by the other half alone
            half.erase_node(copy)
    half.lint()
    module = fx.GraphModule(model, half, name)
    for path, child in module.named_modules():
        own = model.get_submodule(path)
        if child is own:
            continue
        child.training = own.training
        for key, buffer in list(child.named_buffers(recurse=False)):
            if key not in own._buffers or key in own._non_persistent_buffers_set:  # not in the model's state dict
                child.register_buffer(key, buffer, persistent=False)
    return module
