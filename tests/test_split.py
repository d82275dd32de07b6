"""Where a classifier can be cut, and that its halves are the whole."""

import math
import re
import time
from collections.abc import Callable

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from bottlenet.errors import InputError
from bottlenet.net.cut import Split, cuts, split
from bottlenet.net.models import Classifier, load_model
from bottlenet.net.trace import count_flops

SIZE = (3, 16, 16)


class Residual(nn.Module):
    """ResNet's basic block in small, with its in-place ReLU and its `+=`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.conv2(self.relu(self.bn(self.conv1(x))))
        out += identity
        return self.relu(out)


class PreActivated(nn.Module):
    """Changes its own input in place, and then adds what it has become."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.relu_(x)) + x


class Branches(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Conv2d(channels, 2, 1), nn.ReLU())
        self.right = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.left(x), self.right(x)], 1)


class Net(nn.Module):
    """stem, whatever is in between, pooling, fc."""

    def __init__(self, *between: nn.Module, channels: int = 4, out: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.ModuleList(between)
        self.fc = nn.Linear(out, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.fc(x.mean((2, 3)))


class LongSkip(Net):
    """The stem runs past all blocks to the end."""

    def forward(self, x: Tensor) -> Tensor:
        start = x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.fc((x + start).mean((2, 3)))


class Shared(nn.Module):
    """One module used three times, once inside another, and one set of weights under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.act = nn.ReLU()
        self.block = nn.Sequential(self.conv, self.act)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.conv(self.stem(x)))
        x = self.block(x)
        return self.fc(self.act(x * 2).mean((2, 3)))


class Functional(nn.Module):
    """No layers: parameters, a buffer, a constant made in forward, and the batch size taken at the input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))
        self.register_buffer("shift", torch.randn(4, 1, 1))
        self.register_buffer("passing", torch.randn(4, 1, 1), persistent=False)
        self.scale = torch.tensor([2.0])
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        photos = x.size(0)
        gain = self.weight.abs().mean() + self.passing  # depends on no photo, needed on both sides
        x = F.relu(F.conv2d(x, self.weight) + self.shift) * gain
        x = F.max_pool2d(x, 2) * self.scale * torch.tensor(0.5)
        if mask is not None:
            x = x * mask
        x = F.adaptive_avg_pool2d(x + gain, 1)
        return self.fc(x.view(photos, -1))


def shapeless(x: Tensor) -> bool:
    return x.shape[-1] > 4


class ByRange(nn.Module):
    """Can't be traced: a `range` over a side. Can be left whole."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(x.size(-1) // 8):
            x = F.max_pool2d(x, 2)
        return self.conv(x)


class ByBatch(nn.Module):
    """An `if` on the number of photos: no trace holds for all of them."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.size(0) == 1 else x + 1


class ByShape(nn.Module):
    """An `if` on the shape, which the photo's size decides."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        if shapeless(x):
            x = F.max_pool2d(x, 2)
        return self.conv(x)


class ByValue(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class UntraceableRoot(Net):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:  # the line that stops the trace
            x = -x
        return super().forward(x)


class TakesApart(nn.Module):
    """Makes a list of what a module returns: that module can't be left whole."""

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.conv(x)
            return x, x * 2

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.pair = self.Pair()
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        both = list(self.pair(self.stem(x)))
        return self.fc(torch.cat(both, 1).mean((2, 3)))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "chain": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AvgPool2d(14), nn.Flatten(), nn.Linear(4, 5)),
    "residual": lambda: Net(Residual(4), Residual(4)),
    "pre-activated": lambda: Net(PreActivated(4), PreActivated(4)),
    "second name": lambda: Net(SecondName(), SecondName()),
    "branches": lambda: Net(Branches(4), Branches(5), out=5),
    "long skip": lambda: LongSkip(Residual(4), nn.Conv2d(4, 4, 1)),
    "shared": Shared,
    "functional": Functional,
    "by shape": lambda: Net(nn.Conv2d(4, 4, 1), ByShape(), Residual(4)),
    "by range": lambda: Net(nn.Conv2d(4, 4, 1), ByRange(), Residual(4)),
    "by batch": lambda: Net(nn.Conv2d(4, 4, 1), ByBatch(), Residual(4)),
    "takes apart": TakesApart,
    "counting": lambda: Net(Counting(), nn.Conv2d(4, 4, 1)),
    "masked": lambda: Net(nn.Conv2d(4, 4, 1), Masked()),
    "attention": lambda: Net(Tokens(4), nn.Identity(), nn.Dropout(0.5)),
}


class Masked(nn.Module):
    """Weights that no photo tells, of a product and of a mask that is changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(6, 4))

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.ones(4)
        mask[1] = 0
        return x * ((self.left @ self.right).sum(1) * mask).view(1, 4, 1, 1)


class Tokens(nn.Module):
    """Attention over positions: features are (B, tokens, C) inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(channels, 2, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        tokens = self.layer(x.flatten(2).transpose(1, 2))
        return tokens.transpose(1, 2).reshape(b, c, h, w)


class Counting(nn.Module):
    """Counts its runs in a buffer, and takes one parameter twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.register_buffer("runs", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return self.conv(x * self.scale * self.runs.clamp(max=1)) * self.scale


class SecondName(nn.Module):
    """`+=`, `*=` and `x[i] = ` on a tensor that goes by two names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        same = x
        x += 1
        x -= 0.5
        y = nn.ReLU()(self.conv(x))
        y *= 2
        y /= 3
        y[:, 0] = same[:, 1]
        return y + same


def made(name: str) -> nn.Module:
    torch.manual_seed(1)
    return MODELS[name]().eval()


def names(model: nn.Module, size: tuple[int, int, int] = SIZE) -> list[str]:
    return [cut.name for cut in cuts(model, size)]


def scores(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x.clone())


def check_halves(model: nn.Module, halves: Split, x: Tensor) -> None:
    """Bit-equal together, the features left as they were, and nothing but the model's own weights."""
    with torch.no_grad():
        features = halves.head(x.clone())
        before = features.clone()
        torch.testing.assert_close(halves.tail(features), scores(model, x), rtol=0, atol=0)
        torch.testing.assert_close(features, before, rtol=0, atol=0)
    assert tuple(features.shape) == (len(x), *halves.cut.shape)
    own, state = dict(model.named_parameters(remove_duplicate=False)), model.state_dict()
    for half in (halves.head, halves.tail):
        assert all(own[name] is parameter for name, parameter in half.named_parameters())
        assert set(half.state_dict()) <= set(state)
        assert half.training == model.training
    assert set(state) <= set(halves.head.state_dict()) | set(halves.tail.state_dict()) | {
        name
        for name in state
        if name.startswith("block.")  # Shared: the same weights under their other name
    }


@pytest.mark.parametrize("name", MODELS)
def test_every_cut_gives_the_same_scores(name: str) -> None:
    model = made(name)
    x = torch.randn(3, *SIZE)
    found = cuts(model, SIZE)
    assert found
    assert len({cut.name for cut in found}) == len(found)
    assert [cut.head_flops for cut in found] == sorted(cut.head_flops for cut in found)
    for cut in found:
        halves = split(model, cut.name, SIZE)
        assert halves.cut == cut
        check_halves(model, halves, x)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("chain", ["0", "1", "2", "3"]),
        ("residual", ["stem", "blocks.0.iadd", "blocks.0", "blocks.1.iadd", "blocks.1", "mean"]),
        ("pre-activated", ["stem", "blocks.0.relu_", "blocks.0", "blocks.1.relu_", "blocks.1", "mean"]),
        (
            "second name",
            [
                "stem",
                "blocks.0.iadd",
                "blocks.0.isub",
                "blocks.0",
                "blocks.1.iadd",
                "blocks.1.isub",
                "blocks.1",
                "mean",
            ],
        ),
        ("branches", ["stem", "blocks.0", "blocks.1", "mean"]),
        ("long skip", ["stem", "add", "mean"]),
        ("shared", ["stem", "conv", "act", "conv_1", "block", "mul", "act_2", "mean"]),
        ("takes apart", ["stem", "pair.conv", "cat", "mean"]),
        ("counting", ["stem", "blocks.0.mul", "blocks.0.mul_1", "blocks.0.conv", "blocks.0", "blocks.1", "mean"]),
        ("by shape", ["stem", "blocks.0", "blocks.1.max_pool2d", "blocks.1", "blocks.2.iadd", "blocks.2", "mean"]),
        ("by range", ["stem", "blocks.0", "blocks.1", "blocks.2.iadd", "blocks.2", "mean"]),
        ("by batch", ["stem", "blocks.0", "blocks.1", "blocks.2.iadd", "blocks.2", "mean"]),
    ],
)
def test_names(name: str, expected: list[str]) -> None:
    assert names(made(name)) == expected


def test_what_runs_past_a_cut_makes_it_none() -> None:
    assert not any(name.startswith("blocks") for name in names(made("long skip")))


def test_the_batch_size_and_what_depends_on_no_photo_may_run_past() -> None:
    assert {"conv2d", "add_1", "max_pool2d", "adaptive_avg_pool2d"} <= set(names(made("functional")))


def test_buffers_keep_their_kind() -> None:
    halves = split(made("functional"), "max_pool2d", SIZE)
    assert set(halves.tail.state_dict()) == {"weight", "fc.weight", "fc.bias"}
    assert "passing" in dict(halves.tail.named_buffers())


def test_shapes_and_flops() -> None:
    model = made("residual")
    found = {cut.name: cut for cut in cuts(model, SIZE)}
    conv = 2 * 16 * 16 * 4 * 9  # a channel of the input, for four of the output
    assert found["stem"].head_flops == 3 * conv
    assert found["blocks.0"].head_flops == (3 + 4 + 4) * conv
    assert (found["blocks.0"].shape, found["blocks.0"].elements) == ((4, 16, 16), 1024)
    assert found["mean"].shape == (4,)
    total = count_flops(model, torch.zeros(1, *SIZE))
    assert total == 19 * conv + 2 * 4 * 5
    for name in ("stem", "blocks.0", "mean"):
        halves = split(model, name, SIZE)
        assert count_flops(halves.head, torch.zeros(1, *SIZE)) == halves.cut.head_flops
        assert halves.cut.head_flops_share == halves.cut.head_flops / total


def test_what_depends_on_no_photo_is_counted_once() -> None:
    model = made("masked")
    found = {cut.name: cut for cut in cuts(model, SIZE)}
    assert found["blocks.1"].head_flops - found["blocks.0"].head_flops == 2 * 4 * 6 * 4


def test_attention_counts_its_products() -> None:
    model = made("attention")
    tokens, width, inner = 16 * 16, 4, 8
    layer = 2 * tokens * (4 * width * width + 2 * width * inner) + 2 * 2 * tokens * tokens * width
    stem = 2 * tokens * 4 * 3 * 9
    last = cuts(model, SIZE)[-1]
    assert last.head_flops == stem + layer
    assert count_flops(model, torch.zeros(1, *SIZE)) == stem + layer + 2 * 4 * 5


def test_a_network_without_products_has_no_share() -> None:
    found = cuts(nn.Sequential(nn.MaxPool2d(2), nn.ReLU(), nn.Flatten()), SIZE)
    assert [(cut.name, cut.head_flops_share) for cut in found] == [("0", 0.0), ("1", 0.0)]


def test_names_of_inner_modules_are_taken_too() -> None:
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.ReLU())), nn.Conv2d(4, 4, 1)).eval()
    assert names(model) == ["0.0", "0"]
    for alias in ("0", "0.1", "0.1.0"):
        halves = split(model, alias, SIZE)
        assert halves.cut.name == "0"
        check_halves(model, halves, torch.randn(2, *SIZE))


def test_modules_beside_the_cut_are_the_models_own() -> None:
    model = made("residual")
    halves = split(model, "blocks.0", SIZE)
    assert halves.head.get_submodule("blocks.0") is model.get_submodule("blocks.0")
    assert halves.tail.get_submodule("blocks.1") is model.get_submodule("blocks.1")
    halves.tail.train()
    assert model.get_submodule("blocks.1.bn").training
    assert not model.get_submodule("blocks.0.bn").training


def test_mode_is_kept_and_nothing_is_learned() -> None:
    model = made("residual").train()
    model.get_submodule("blocks.1").eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    halves = split(model, "blocks.0.iadd", SIZE)
    assert halves.head.training
    assert halves.head.get_submodule("blocks.0").training
    assert halves.tail.training
    assert not halves.tail.get_submodule("blocks.1").training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_gradients_reach_the_models_weights() -> None:
    model = made("residual").train()
    halves = split(model, "blocks.0.bn", SIZE) if "blocks.0.bn" in names(model) else split(model, "blocks.0", SIZE)
    halves.tail(halves.head(torch.randn(2, *SIZE)) * 1.0).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_an_in_place_tail_leaves_the_features_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1)).eval()
    halves = split(model, "1", SIZE)
    check_halves(model, halves, torch.randn(2, *SIZE))
    features = torch.randn(2, 4, 16, 16, requires_grad=True)
    halves.tail(features).sum().backward()  # a leaf can't be changed in place
    assert features.grad is not None


def test_tracing_leaves_no_trace_on_the_model() -> None:
    class Remembers(Net):
        last: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            self.last = x
            self.calls = getattr(self, "calls", 0) + 1
            return super().forward(x * torch.tensor(2.0))

    model = Remembers(Residual(4)).eval()
    before = set(vars(model))
    split(model, "blocks.0", SIZE)
    assert set(vars(model)) == before
    assert model.last is None


def test_unknown_cut_names_the_nearest_and_the_command() -> None:
    with pytest.raises(InputError, match=r"'blocks.7' is no cut of this Net; nearest are .*blocks\.1.* lists"):
        split(made("residual"), "blocks.7", SIZE)
    with pytest.raises(InputError, match=r"'\?' is no cut of this Net; it has 6; `bottlenet cuts MODEL` lists all"):
        split(made("residual"), "?", SIZE)


def test_a_place_that_is_no_cut_says_so() -> None:
    with pytest.raises(InputError, match=r"'blocks.0.conv1' is no cut, .* around it are stem and blocks.0.iadd; "):
        split(made("residual"), "blocks.0.conv1", SIZE)
    with pytest.raises(InputError, match="'fc' is no cut, .* around it are mean; "):
        split(made("residual"), "fc", SIZE)


def test_a_network_whose_scores_are_no_numbers_is_cut() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(784, 5)).eval()
    nn.init.constant_(model[2].bias, math.nan)
    halves = split(model, "0", SIZE)
    assert halves.tail(halves.head(torch.randn(2, *SIZE))).isnan().all()


def test_untraceable_names_the_line() -> None:
    with pytest.raises(InputError) as caught:
        cuts(UntraceableRoot(Residual(4)), SIZE)
    message = str(caught.value)
    assert "UntraceableRoot" in message
    assert re.search(r"test_split\.py:\d+ \(if x\.sum\(\) > 0:", message)
    assert "submodule" in message
    assert "\n" not in message


def test_two_inputs_are_refused() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    with pytest.raises(InputError, match="missing 1 required positional argument: 'y'"):
        cuts(Two(), SIZE)


def test_control_flow_on_values_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"`blocks.0` does at .*test_split\.py:\d+ .* depends on the values.*torch\.where"
    ):
        cuts(Net(ByValue()), SIZE)


def test_wrong_input_size_says_where_it_stops() -> None:
    with pytest.raises(InputError, match=r"input of \(3, 40, 40\) .*: at `4`: .*give the size that it was made for"):
        cuts(made("chain"), (3, 40, 40))


# Random networks, with an oracle: each step says what it adds to the list of cuts.
STEPS = st.recursive(
    st.sampled_from(["conv", "relu", "relu_", "identity", "bn"]),
    lambda step: st.lists(step, min_size=1, max_size=3),
    max_leaves=8,
)


class Body(nn.Module):
    """A residual block around steps."""

    def __init__(self, steps: list[nn.Module]) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for step in self.steps:
            y = step(y)
        return x + y


def build(step: str | list[object]) -> nn.Module:
    if isinstance(step, list):
        return Body([build(each) for each in step])
    return {
        "conv": lambda: nn.Conv2d(4, 4, 3, padding=1),
        "relu": nn.ReLU,
        "relu_": lambda: nn.ReLU(inplace=True),
        "identity": nn.Identity,
        "bn": lambda: nn.BatchNorm2d(4),
    }[step]()


def expected_cuts(steps: list[object], prefix: str) -> list[str]:
    """Inside a residual block the skip runs past everything but what changes the skip itself in place."""
    found: list[str] = []
    for at, step in enumerate(steps):
        if isinstance(step, list):
            found += leading_in_place(step, f"{prefix}.{at}.steps")
        if step != "identity":
            found.append(f"{prefix}.{at}")
    return found


def leading_in_place(steps: list[object], prefix: str) -> list[str]:
    """While the branch still is the skip's own tensor, changing it in place makes a cut, however deep inside."""
    found: list[str] = []
    for at, step in enumerate(steps):
        if step != "relu_":
            return found + (leading_in_place(step, f"{prefix}.{at}.steps") if isinstance(step, list) else [])
        found.append(f"{prefix}.{at}")
    return found


@settings(max_examples=15, deadline=None)
@given(st.lists(STEPS, min_size=1, max_size=4), st.integers(0, 2**16))
@example([["identity", "relu_"]], 0)
@example([["relu_", ["relu_"]]], 0)
def test_random_networks(steps: list[object], seed: int) -> None:
    torch.manual_seed(seed)
    model = Net(*[build(step) for step in steps]).eval()
    assert names(model) == ["stem", *expected_cuts(steps, "blocks"), "mean"]
    x = torch.randn(2, *SIZE)
    for cut in cuts(model, SIZE):
        check_halves(model, split(model, cut.name, SIZE), x)


@pytest.fixture(scope="module")
def lite0() -> Classifier:
    return load_model("efficientnet_lite0")


def test_efficientnet_lite0(lite0: Classifier) -> None:
    started = time.process_time()
    found = {cut.name: cut for cut in cuts(lite0.module)}
    assert time.process_time() - started < 5
    assert found["stem"].shape == (32, 112, 112)
    sides = (
        [(16, 112)] + [(24, 56)] * 2 + [(40, 28)] * 2 + [(80, 14)] * 3 + [(112, 14)] * 3 + [(192, 7)] * 4 + [(320, 7)]
    )
    for block, (channels, side) in enumerate(sides):
        assert found[f"blocks.{block}"].shape == (channels, side, side)
    assert found["blocks.8"].head_flops_share == pytest.approx(0.46, abs=0.005)
    assert found["blocks.10"].head_flops_share == pytest.approx(0.63, abs=0.005)
    listed = list(found)
    x = torch.randn(1, *lite0.input_size)
    for name in (listed[0], listed[len(listed) // 2], listed[-1]):
        check_halves(lite0.module, split(lite0.module, name), x)


@pytest.mark.slow
def test_efficientnet_lite0_at_every_block(lite0: Classifier) -> None:
    size = (3, 64, 64)  # a convolutional network takes any; small is quick
    x = torch.randn(2, *size)
    for name in ("stem", *(f"blocks.{block}" for block in range(16)), "top"):
        check_halves(lite0.module, split(lite0.module, name, size), x)


def test_split_is_quick(lite0: Classifier) -> None:
    started = time.process_time()
    split(lite0.module, "blocks.8")
    assert time.process_time() - started < 2


def test_a_network_that_was_not_written_to_be_cut() -> None:
    """EfficientNet-B0 as its package has it: the batch size is read at the input, and its Swish can't be traced."""
    package = pytest.importorskip("efficientnet_lite_pytorch")
    model = package.EfficientNet.from_name("efficientnet-b0").eval()
    size = (3, 64, 64)
    for name in ("_conv_stem", "_blocks.8", "_blocks.0._swish", "_avg_pooling"):
        check_halves(model, split(model, name, size), torch.randn(2, *size))
