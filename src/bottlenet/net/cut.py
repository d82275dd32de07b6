"""Find where a classifier can be cut, and cut it in two.

    photo -> head -> features -> tail -> scores         tail(head(x)) == model(x), bit for bit

A cut is a place where exactly one tensor crosses: a skip connection that runs past it makes it no cut. It is named
by the outermost module that returns the tensor (`layer1.0`, `features.3`, `blocks.8`), the second and later call
of a module by `relu_1`, `relu_2`, and a place inside a module by the module and the operation (`layer1.0.add`).

Up to four tensors may cross together, such as the skips of a U-Net or the scales of a detector's neck. Such a set is
named by all of them, with + between the names. Its features are a row (B, N), one tensor's numbers after the other's.

FLOPs are those of convolutions, matrix products and attention, two a multiply-add (torch.utils.flop_counter);
operations element by element count nothing.

A unit works on a grid of channels, whatever the layout of the features in memory:

    kind     features               grid (B, C, H, W)
    planes   (B, C, H, W)           as they are: the output of convolutions
    rows     (B, H, W, C)           channels come last: Swin
    tokens   (B, extra + H*W, C)    one token for each place, row by row: ViT, DeiT, BEiT, Mixer
    set      (B, N)                 at each place of the smallest tensor's grid, a patch of each tensor

The `extra` tokens of a transformer stand for no place: class, distillation, registers. They stay on the device. Where
the latent is restored they are made again: a learned token, plus a linear function of the mean over the restored
places that starts at zero. So they cost no byte, and training learns how much of them the places tell.
"""

from __future__ import annotations

import difflib
import itertools
import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from bottlenet.errors import InputError, reason
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
    layout: Layout | None = None  # the grid of channels in them; None: there is none, and a unit can't go there
    tensors: tuple[str, ...] = ()  # of a set: the names of what crosses


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
        graph, nodes, shapes = whole.graph, place.nodes, [facts.shapes[node] for node in place.nodes]
        try:
            shallow = trace(towards=place.keys, opaque=whole.opaque)
        except InputError:
            pass  # a module left whole returns what the code around it takes apart: keep all unrolled
        else:
            facts_there = carry_over(facts, whole, shallow)
            there = tuple(node for key in place.keys if (node := shallow.at(key)) is not None)
            # Where a module left whole returns several tensors, what takes them apart shifts the keys behind it.
            same_keys = shallow.outputs.keys() <= whole.outputs.keys()
            if same_keys and len(there) == len(nodes) and _separates(shallow.graph, facts_there, there):
                graph, facts, nodes = shallow.graph, facts_there, there
        head = _head(model, graph, facts, nodes)
        halves = Split(head, _tail(model, graph, facts, nodes, shapes), place.cut)
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
    most = float(other.nan_to_num(0, 0, 0).abs().max()) if other.numel() else 0.0
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-3, atol=1e-4 * most, equal_nan=True)


MAX_EXTRA = 16  # tokens without a place; DINOv2 has 5


@dataclass(frozen=True)
class Layout:
    """How the features at a cut lie in memory, and the grid of channels in them."""

    kind: str  # planes | rows | tokens | set
    grid: tuple[int, int, int]  # C, H, W of them as a unit sees them
    extra: int = 0  # tokens in front that stand for no place
    parts: tuple[Layout, ...] = ()  # of a set: of each tensor by itself

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the features, without batch."""
        channels, height, width = self.grid
        if self.kind == "set":
            return (sum(math.prod(part.shape) for part in self.parts),)
        if self.kind == "planes":
            return self.grid
        return (height, width, channels) if self.kind == "rows" else (self.extra + height * width, channels)

    @property
    def patches(self) -> list[int]:
        """Of each tensor of a set, the side of the patch at a place of the grid: 4, 2 and 1 of 56, 28 and 14 places."""
        _, height, width = self.grid
        return [max(-(-part.grid[1] // height), -(-part.grid[2] // width)) for part in self.parts]

    def apart(self, row: Tensor) -> list[Tensor]:
        """Take a set's row (B, N) apart into its tensors."""
        pieces = torch.split(row, [math.prod(part.shape) for part in self.parts], 1)
        return [piece.reshape(-1, *part.shape) for piece, part in zip(pieces, self.parts, strict=True)]

    def to_grid(self, features: Tensor) -> Tensor:
        """Drop the extra tokens, and arrange the rest as (B, C, H, W)."""
        if self.kind == "planes":
            return features
        if self.kind == "rows":
            return features.permute(0, 3, 1, 2)
        if self.kind == "tokens":
            return features[:, self.extra :].transpose(1, 2).reshape(-1, *self.grid)
        grids = [part.to_grid(each) for part, each in zip(self.parts, self.apart(features), strict=True)]
        return torch.cat([in_patches(grid, side) for grid, side in zip(grids, self.patches, strict=True)], 1)

    def from_grid(self, grid: Tensor) -> Tensor:
        """Arrange (B, C, H, W) as the features of one tensor are, without the extra tokens."""
        if self.kind == "planes":
            return grid
        return grid.permute(0, 2, 3, 1) if self.kind == "rows" else grid.flatten(2).transpose(1, 2)


def in_patches(grid: Tensor, side: int) -> Tensor:
    """Arrange (B, C, H, W) as (B, C * side**2, H / side, W / side), with zeros beyond the edge."""
    height, width = grid.shape[-2:]
    return F.pixel_unshuffle(F.pad(grid, (0, -width % side, 0, -height % side)), side)


def layout_of(shape: Sequence[int], sides: Sequence[tuple[int, int]], aspect: tuple[int, int]) -> Layout | None:
    """Find the layout of features of that shape, without batch; None where they hold no grid.

    `sides` (H, W) are those of the grids before them, the nearest last: tokens of as many places come from there.
    `aspect` (H, W) is the photo's size: of a tensor with three sides, the last two that have its aspect are H and W.
    Where only the first two have it, channels come last.
    """
    if len(shape) == 3:
        rows = same_aspect(shape[:2], aspect) and not same_aspect(shape[1:], aspect)
        return Layout("rows", (shape[2], shape[0], shape[1])) if rows else Layout("planes", tuple(shape))  # type: ignore[arg-type]
    if len(shape) != 2:
        return None
    count, channels = shape
    for height, width in reversed(sides):
        if 0 <= count - height * width <= MAX_EXTRA:
            return Layout("tokens", (channels, height, width), count - height * width)
    side = math.isqrt(count)  # no grid seen, as the module that makes tokens of the photo is left whole
    if same_aspect((1, 1), aspect) and count - side**2 <= MAX_EXTRA:
        return Layout("tokens", (channels, side, side), count - side**2)
    return None


def layout_of_set(parts: Sequence[Layout | None]) -> Layout | None:
    """Find the layout of several tensors in a row; None where the places of one can't be divided into the fewest."""
    known = tuple(part for part in parts if part is not None)
    if len(known) < len(parts):
        return None
    smallest = min((part.grid for part in known), key=lambda grid: math.prod(grid[1:]))
    found = Layout("set", smallest, parts=known)
    sides = list(zip(known, found.patches, strict=True))
    if any((-(-part.grid[1] // side), -(-part.grid[2] // side)) != smallest[1:] for part, side in sides):
        return None
    return replace(found, grid=(sum(part.grid[0] * side**2 for part, side in sides), *smallest[1:]))


def layout_at(cut: Cut) -> Layout:
    """Return the grid of channels at a cut. InputError: there is none."""
    if cut.layout is None and cut.tensors:
        raise InputError(f"cut {cut.name!r}: its tensors have no grid of places in common; give another set")
    if cut.layout is None:
        raise InputError(f"cut {cut.name!r} has shape {cut.shape}: a unit needs channels, height and width")
    return cut.layout


def same_aspect(sides: Sequence[int], aspect: tuple[int, int]) -> bool:
    """Tell if H and W have the photo's proportion."""
    return sides[0] * aspect[1] == sides[1] * aspect[0]


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
        shape, layout = facts.shapes[nodes[0]], self.layouts[nodes[0]]
        if len(nodes) > 1:
            shape = (sum(math.prod(facts.shapes[node]) for node in nodes),)
            layout = layout_of_set([self.layouts[node] for node in nodes])
        share, tensors = flops / total if total else 0.0, tuple(names) if len(names) > 1 else ()
        cut = Cut("+".join(names), shape, math.prod(shape), flops, share, layout, tensors)
        return _Place(cut, tuple(nodes), tuple(self.whole.names[name] for name in names))

    def sets(self, most: int) -> Iterator[_Place]:
        """Find what crosses together, 2 tensors to `most`, wherever the graph is cut in the order in which it runs; and
        the same where each tensor has become as small as it gets by itself, such as by a 1x1 convolution.
        """
        same: dict[fx.Node, list[fx.Node]] = {}
        for node in self.names:
            same.setdefault(_origin(node, self.facts), []).append(node)
        known, allowed = set[frozenset[fx.Node]](), self.facts.shapes.keys() - self.ends
        for frontier in self._frontiers(most):
            for origins in (frontier, self._smallest(frontier)):
                if origins in known or not origins <= allowed:
                    continue
                known.add(origins)
                nodes = sorted((self._outermost(same[each]) for each in origins), key=self.order.__getitem__)
                if _separates(self.graph, self.facts, nodes):
                    yield self._place(nodes)

    def _frontiers(self, most: int) -> Iterator[frozenset[fx.Node]]:
        """Yield the origins of what is used later, behind each node where these are 2 to `most`."""
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
        fed, ordered = self.facts.fed, sorted(nodes, key=self.order.__getitem__)
        device, found = _device(self.graph, self.facts, ordered), set[fx.Node]()
        for node in ordered:
            least, end = node, node
            while True:
                users = [user for user in end.users if user in fed and user not in device]
                if len(users) != 1 or sum(source in fed for source in users[0].all_input_nodes) != 1:
                    break
                end = users[0]
                grids = [layout.grid for each in (least, end) if (layout := self.layouts.get(each)) is not None]
                if len(grids) == 2 and grids[0][1:] == grids[1][1:] and grids[1][0] < grids[0][0]:
                    least = end
            found.add(_origin(least, self.facts))
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
        whole = repr("+".join(given))
        for each in given:
            if by_name.get(each) not in self.facts.shapes:
                near = difflib.get_close_matches(each, by_name, n=3, cutoff=0.4)
                hint = f"; nearest are {', '.join(near)}" if near else ""
                raise InputError(f"{each!r} is no tensor of features of this {type_name}{hint}")
        nodes = {_origin(by_name[each], self.facts): by_name[each] for each in given}
        if len(nodes) < len(given):
            raise InputError(f"{whole}: two of these are one tensor; name each once")
        if len(nodes) > MAX_TENSORS:
            raise InputError(f"{whole}: these are {len(nodes)} tensors; give {MAX_TENSORS} or fewer")
        members = sorted(nodes.values(), key=self.order.__getitem__)
        crossing = _crossing(self.graph, self.facts, members)
        if more := [self.names.get(node, "the photo") for node in crossing if node not in nodes]:
            what = f"{' and '.join(more[:MAX_TENSORS])} would have to cross, too"
            raise InputError(f"{whole} does not separate photo and scores: {what}")
        if idle := [self.names[node] for origin, node in nodes.items() if origin not in crossing]:
            raise InputError(f"{whole}: {idle[0]} is not needed beside the others; leave it out")
        if ends := [self.names[node] for origin, node in nodes.items() if origin in self.ends]:
            raise InputError(f"{whole}: {ends[0]} is what the network gives; leave nothing but features")
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
    """Find what the head runs: what these nodes come from, and what else is before the last of them, unless it depends
    on the photo and leads behind them. What leads nowhere may change a tensor that has a second name.
    """
    device, new = set[fx.Node](), list(nodes)
    while new:
        if (node := new.pop()) not in device:
            device.add(node)
            new += [source for source in node.all_input_nodes if source in facts.fed]
    before = list(itertools.takewhile(lambda node: node is not nodes[-1], graph.nodes))
    idle = set[fx.Node]()
    for node in reversed(before):
        if node not in facts.fed or all(user in idle for user in node.users if user in facts.fed):
            idle.add(node)
    here = device | facts.constants.keys() | facts.batch
    for node in before:
        if node in idle and here.issuperset(node.all_input_nodes):
            device.add(node)
            here.add(node)
    return device


def _crossing(graph: fx.Graph, facts: Facts, nodes: Sequence[fx.Node]) -> list[fx.Node]:
    """List the tensors, by their origins, that are used behind these nodes and are there when these are."""
    device = _device(graph, facts, nodes)
    fed = [node for node in graph.nodes if node in device and node in facts.fed]
    used = (node for node in fed if any(user in facts.fed and user not in device for user in node.users))
    return list(dict.fromkeys(_origin(node, facts) for node in used))


def _separates(graph: fx.Graph, facts: Facts, nodes: Sequence[fx.Node]) -> bool:
    """Tell if just these cross together."""
    return set(_crossing(graph, facts, nodes)) == {_origin(node, facts) for node in nodes}


def _origin(node: fx.Node, facts: Facts) -> fx.Node:
    """Follow a node back through nn.Identity and the like to where its tensor comes from."""
    while node in facts.identity_of:
        node = facts.identity_of[node]
    return node


def _head(model: nn.Module, graph: fx.Graph, facts: Facts, cut: Sequence[fx.Node]) -> nn.Module:
    """Copy everything up to the cut."""
    device = _device(graph, facts, cut)
    half, env = fx.Graph(), dict[fx.Node, Any]()
    (photos,) = graph.find_nodes(op="placeholder")
    for node in graph.nodes:
        if node in device:
            env[node] = half.node_copy(node, env.__getitem__)
        elif node in facts.constants:  # the side of a tensor that the server makes
            env[node] = facts.constants[node]
        elif node in facts.batch:
            env[node] = half.call_method("size", (env[photos], 0))
        if node is cut[-1]:
            break
    if len(cut) == 1:
        half.output(env[cut[0]])
    else:
        row = [half.call_method("flatten", (env[node], 1)) for node in cut]
        half.output(half.call_function(torch.cat, (row, 1)))
    return _module(model, half, env, facts, "Head")


def _tail(
    model: nn.Module, graph: fx.Graph, facts: Facts, cut: Sequence[fx.Node], shapes: Sequence[tuple[int, ...]]
) -> nn.Module:
    """Copy everything behind the cut, and whatever it needs from before that does not depend on the photo."""
    device = _device(graph, facts, cut)
    half, env = fx.Graph(), dict[fx.Node, Any](facts.constants)
    features = half.placeholder("features")
    if facts.batch:
        env |= dict.fromkeys(facts.batch, half.call_method("size", (features, 0)))
    crossing = {_origin(node, facts): features for node in cut}
    if len(cut) > 1:
        row = half.call_method("split", (features, [math.prod(shape) for shape in shapes], 1))
        for number, (origin, shape) in enumerate(zip(crossing, shapes, strict=True)):
            piece = half.call_function(operator.getitem, (row, number))
            crossing[origin] = half.call_method("reshape", (piece, (-1, *shape)))
    for node in graph.nodes:
        origin = _origin(node, facts)
        if node in device and origin in crossing:
            if node is origin and node in facts.mutated:
                crossing[node] = half.call_method("clone", (crossing[node],))
            env[node] = crossing[origin]
        elif node in env or node in facts.shapes_alone:
            continue
        elif node not in device or (node not in facts.fed and node.users):
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
