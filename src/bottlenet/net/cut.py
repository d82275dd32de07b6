"""Find where a classifier can be cut, and cut it in two.

    photo -> head -> features -> tail -> scores         tail(head(x)) == model(x), bit for bit

A cut is a place where exactly one tensor crosses: a skip connection that runs past it makes it no cut. It is named
by the outermost module that returns the tensor (`layer1.0`, `features.3`, `blocks.8`), the second and later call
of a module by `relu_1`, `relu_2`, and a place inside a module by the module and the operation (`layer1.0.add`).

FLOPs are those of convolutions, matrix products and attention, two a multiply-add (torch.utils.flop_counter);
operations element by element count nothing.

A unit works on a grid of channels, whatever the layout of the features in memory:

    kind     features               grid (B, C, H, W)
    planes   (B, C, H, W)           as they are: the output of convolutions
    rows     (B, H, W, C)           channels come last: Swin
    tokens   (B, extra + H*W, C)    one token for each place, row by row: ViT, DeiT, BEiT, Mixer

The `extra` tokens of a transformer stand for no place: class, distillation, registers. They stay on the device. Where
the latent is restored they are made again: a learned token, plus a linear function of the mean over the restored
places that starts at zero. So they cost no byte, and training learns how much of them the places tell.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from bottlenet.errors import InputError, reason
from bottlenet.net.trace import Facts, Key, Size, Traced, advice_on, carry_over, shape_facts, snapshot, traced


@dataclass(frozen=True)
class Cut:
    """A place where one tensor crosses."""

    name: str
    shape: tuple[int, ...]  # of the features, without batch: (C, H, W), (H, W, C), (N, C) tokens; (C,) behind pooling
    elements: int  # of the features of one photo
    head_flops: int  # FLOPs of the head for one photo
    head_flops_share: float  # of the whole network, 0..1
    layout: Layout | None = None  # the grid of channels in them; None: there is none, and a unit can't go there


@dataclass(frozen=True)
class Split:
    """A model in two halves, which share its parameters and buffers under their names in the model."""

    head: nn.Module = field(repr=False)  # (B, 3, S, S) float -> features (B, *cut.shape)
    tail: nn.Module = field(repr=False)  # features (B, *cut.shape) -> scores (B, classes)
    cut: Cut


def cuts(model: nn.Module, input_size: Size = (3, 224, 224)) -> tuple[Cut, ...]:
    """List every cut of a classifier, from the photo to the scores, which are no cuts themselves.

    `input_size` is (channels, height, width).

    InputError: the model's forward can't be traced (torch.fx), or does not run on that size.
    """
    with traced(model, input_size) as trace:
        whole = trace()
        places = _places(whole, shape_facts(model, whole.graph, input_size), input_size)
        return tuple(dict.fromkeys(place.cut for place in places.values()))


def split(model: nn.Module, cut: str, input_size: Size = (3, 224, 224)) -> Split:
    """Cut a model in two. Besides the cut's own name, those of the modules inside that return the same tensor are
    taken: `layer1.2` where `layer1` ends with it.

    Modules on one side of the cut are used as they are, in the mode they are in, and follow `train()` and `eval()`
    later; the code around the cut is unrolled in the mode it is in now. Where the tail changes the features in place,
    it works on a copy.

    Where the model is in eval mode, both halves run on two photos, and give what the model gives when it is called.

    InputError: not a cut of this model, halves that give something else, or see `cuts`.
    """
    with traced(model, input_size) as trace:
        whole = trace()
        facts = shape_facts(model, whole.graph, input_size)
        place = _find(whole, _places(whole, facts, input_size), cut, type(model).__name__)
        graph, node = whole.graph, place.node
        try:
            shallow = trace(towards=place.key, opaque=whole.opaque)
        except InputError:
            pass  # a module left whole returns what the code around it takes apart: keep all unrolled
        else:
            facts_there, there = carry_over(facts, whole, shallow), shallow.at(place.key)
            # Where a module left whole returns several tensors, what takes them apart shifts the keys behind it.
            same_keys = shallow.outputs.keys() <= whole.outputs.keys()
            if same_keys and there in _crossing_alone(shallow.graph, facts_there):
                graph, facts, node = shallow.graph, facts_there, there
        halves = Split(_head(model, graph, facts, node), _tail(model, graph, facts, node), place.cut)
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


MAX_EXTRA = 16  # tokens without a place; DINOv2 has 5


@dataclass(frozen=True)
class Layout:
    """How the features at a cut lie in memory, and the grid of channels in them."""

    kind: str  # planes | rows | tokens
    grid: tuple[int, int, int]  # C, H, W of them as a unit sees them
    extra: int = 0  # tokens in front that stand for no place

    def to_grid(self, features: Tensor) -> Tensor:
        """Drop the extra tokens, and arrange the rest as (B, C, H, W)."""
        if self.kind == "planes":
            return features
        if self.kind == "rows":
            return features.permute(0, 3, 1, 2)
        return features[:, self.extra :].transpose(1, 2).reshape(-1, *self.grid)

    def from_grid(self, grid: Tensor) -> Tensor:
        """Arrange (B, C, H, W) as the features are, without the extra tokens."""
        if self.kind == "planes":
            return grid
        return grid.permute(0, 2, 3, 1) if self.kind == "rows" else grid.flatten(2).transpose(1, 2)


class GridReduction(nn.Module):
    """A reduction of features that are no planes: features -> grid -> latent (B, c', h, w)."""

    def __init__(self, layout: Layout, reduction: nn.Module) -> None:
        super().__init__()
        self.layout, self.reduction = layout, reduction

    def forward(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.reduction(self.layout.to_grid(features)))


class GridRestoration(nn.Module):
    """Its mirror: latent (B, c', h, w) -> grid -> features, with the extra tokens made again."""

    def __init__(self, layout: Layout, restoration: nn.Module) -> None:
        super().__init__()
        self.layout, self.restoration = layout, restoration
        channels, extra = layout.grid[0], layout.extra
        if extra:
            self.token = nn.Parameter(torch.zeros(extra, channels))
            self.from_places = nn.Linear(channels, extra * channels, bias=False)
            nn.init.zeros_(self.from_places.weight)

    def forward(self, latent_hat: Tensor) -> Tensor:
        places = self.layout.from_grid(self.restoration(latent_hat))  # (B, H*W, C), or (B, H, W, C) without extra
        if not self.layout.extra:
            return places
        extra = self.token + self.from_places(places.mean(1)).view(-1, *self.token.shape)  # (B, extra, C)
        return torch.cat([extra, places], 1)

    def note_extra_tokens(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the grids of features (B, N, C), then set the token to the mean of the extra tokens in them."""
        photos, total = 0, torch.zeros(())
        for features in batches:
            photos, total = photos + len(features), total + features[:, : self.layout.extra].sum(0)
            yield self.layout.to_grid(features)
        if self.layout.extra:
            self.token.copy_(total / photos)


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


def layout_at(cut: Cut) -> Layout:
    """Return the grid of channels at a cut. InputError: there is none."""
    if cut.layout is None:
        raise InputError(f"cut {cut.name!r} has shape {cut.shape}: a unit needs channels, height and width")
    return cut.layout


def same_aspect(sides: Sequence[int], aspect: tuple[int, int]) -> bool:
    """Tell if H and W have the photo's proportion."""
    return sides[0] * aspect[1] == sides[1] * aspect[0]


@dataclass(frozen=True)
class _Place:
    cut: Cut
    node: fx.Node
    key: Key  # the outermost call that returns the node


def _places(whole: Traced, facts: Facts, input_size: Size) -> dict[fx.Node, _Place]:
    """Map each node that is a cut to its place, in order; nodes that are the same tensor share one."""
    names: dict[fx.Node, str] = {}
    for name, key in sorted(whole.names.items(), key=lambda item: len(item[1])):  # outermost first, else as they come
        if (node := whole.at(key)) is not None:
            names.setdefault(node, name)
    groups: dict[fx.Node, list[fx.Node]] = {}
    for node in _crossing_alone(whole.graph, facts):
        if node in facts.shapes:
            groups.setdefault(_origin(node, facts), []).append(node)
    order = {node: at for at, node in enumerate(whole.graph.nodes)}
    ends = {_origin(node, facts) for node in order if node.op in ("placeholder", "output")}
    ends |= {_origin(node, facts) for node in whole.graph.output_node().all_input_nodes}
    total = sum(facts.flops.values())
    layouts = _layouts(whole.graph, facts, input_size)
    places: dict[fx.Node, _Place] = {}
    for origin, nodes in groups.items():
        if origin in ends:
            continue
        node = min(nodes, key=lambda node: len(whole.names[names[node]]))
        flops = sum(count for each, count in facts.flops.items() if order[each] <= order[node])
        shape = facts.shapes[node]
        cut = Cut(names[node], shape, math.prod(shape), flops, flops / total if total else 0.0, layouts[node])
        places |= dict.fromkeys(nodes, _Place(cut, node, whole.names[names[node]]))
    return places


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


def _origin(node: fx.Node, facts: Facts) -> fx.Node:
    """Follow a node back through nn.Identity and the like to where its tensor comes from."""
    while node in facts.identity_of:
        node = facts.identity_of[node]
    return node


def _find(whole: Traced, places: dict[fx.Node, _Place], name: str, type_name: str) -> _Place:
    """Look up the place called `name`. InputError: there is none, or it is no cut."""
    if not isinstance(name, str):
        what = f"the cut is given as {type(name).__name__}"
        raise InputError(f"{what}; give its name, as `bottlenet cuts MODEL` lists it")
    by_name = {alias: places[node] for alias, key in whole.names.items() if (node := whole.at(key)) in places}
    if name in by_name:
        return by_name[name]
    listed = list(dict.fromkeys(place.cut.name for place in places.values()))
    if name in whole.names:
        order = {node: at for at, node in enumerate(whole.graph.nodes)}
        node = whole.at(whole.names[name])
        here = order.get(node, 0) if node is not None else 0
        before = [place.cut.name for place in places.values() if order[place.node] < here][-1:]
        behind = [place.cut.name for place in places.values() if order[place.node] > here][:1]
        what = "is no cut, as something else crosses with it or it is no tensor of features"
        hint = f"the cuts around it are {' and '.join(before + behind) or 'none'}"
    else:
        near = difflib.get_close_matches(name, listed, n=3, cutoff=0.4)
        what = f"is no cut of this {type_name}"
        hint = f"nearest are {', '.join(near)}" if near else f"it has {len(listed)}"
    raise InputError(f"{name!r} {what}; {hint}; `bottlenet cuts MODEL` lists all")


def _head(model: nn.Module, graph: fx.Graph, facts: Facts, cut: fx.Node) -> nn.Module:
    """Copy everything up to the cut."""
    half, env = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in graph.nodes:
        env[node] = half.node_copy(node, env.__getitem__)
        if node is cut:
            break
    half.output(env[cut])
    return _module(model, half, env, facts, "Head")


def _tail(model: nn.Module, graph: fx.Graph, facts: Facts, cut: fx.Node) -> nn.Module:
    """Copy everything behind the cut, and whatever it needs from before that does not depend on the photo."""
    half, env = fx.Graph(), dict[fx.Node, Any](facts.constants)
    features = half.placeholder("features")
    if facts.batch:
        env |= dict.fromkeys(facts.batch, half.call_method("size", (features, 0)))
    behind = False
    for node in graph.nodes:
        if node is cut:
            behind = True
            env[cut] = half.call_method("clone", (features,)) if cut in facts.mutated else features
        elif node not in env and node not in facts.shapes_alone and (behind or (node not in facts.fed and node.users)):
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
