"""A folder of a transformers image classifier: config.json, preprocessor_config.json, model.safetensors.

Nothing is downloaded, no pickle is read, and no code from the folder is run. The preprocessing is what the folder's
preprocessor_config.json says, where a centre crop and one resize can say it: `crop=1` must be given for one that
squashes the whole photo to a square, so that somebody has decided that.
"""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from bottlenet.errors import InputError, reason
from bottlenet.files import read_bounded
from bottlenet.net.models import Classifier, Metadata, Named, assemble, first_few, import_extra


def load(named: Named) -> Classifier:
    """Load a classifier. InputError: another folder, weights that don't fit, or see `load_model`."""
    transformers = import_extra("transformers", named)
    folder = Path(named.network)
    config = read_json(folder / "config.json", named)
    if not any(folder.glob("*.safetensors")):
        pickled = ", ".join(sorted(path.name for path in folder.glob("*.bin")))
        advice = f"; {pickled} is a pickle, which can run any code: save it anew with save_pretrained"
        raise InputError(f"{folder}: no model.safetensors in it{advice if pickled else ''}")
    if "auto_map" in config:
        advice = "wrap the network in a function of yours, package.module:function"
        raise InputError(f"{folder}: its config.json names code of its own, which is not run; {advice}")
    path = folder / "preprocessor_config.json"
    processor = read_json(path, named) if path.is_file() else {}
    metadata = metadata_of(config, processor)
    blue_first = processor.get("do_flip_channel_order") is True and processor.get("do_normalize") is not True
    return assemble(named, Scores(network(transformers, folder), blue_first=blue_first), metadata)


def read_json(path: Path, named: Named) -> dict[str, Any]:
    """Read one object. InputError: it can't be read, or is something else."""
    try:
        values = json.loads(read_bounded(path, MAX_JSON_BYTES))
        if not isinstance(values, dict):
            raise InputError("it holds no JSON object")
    except (OSError, ValueError, RecursionError, InputError) as error:
        advice = "give a folder that save_pretrained of transformers has written"
        raise InputError(f"{named.whole}: {path}: {reason(error)}; {advice}") from error
    return values


class Scores(nn.Module):
    """A transformers network that returns its scores alone. `model` is its name in the names of cuts."""

    def __init__(self, model: nn.Module, *, blue_first: bool) -> None:
        super().__init__()
        self.model, self.blue_first = model, blue_first

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.model(pixel_values=x.flip(1) if self.blue_first else x).logits)


def network(transformers: Any, folder: Path) -> nn.Module:
    """Load the network with its weights. InputError: they don't fit, or are no image classifier."""
    try:
        with quietly(transformers.utils.logging):
            module, info = transformers.AutoModelForImageClassification.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype="float32",  # whatever the file has: photos are float32
                ignore_mismatched_sizes=True,  # so that they are listed below
                output_loading_info=True,
            )
    except Exception as error:  # theirs come in many kinds
        raise InputError(f"{folder}: transformers can't load an image classifier from it ({reason(error)})") from error
    mismatched = [f"{name} is {tuple(its)}, not {tuple(ours)}" for name, its, ours in sorted(info["mismatched_keys"])]
    differences = {
        "they lack": sorted(info["missing_keys"]),
        "they have besides": sorted(info["unexpected_keys"]),
        "other shapes:": mismatched,
    }
    if any(differences.values()):
        words = "; ".join(f"{what} {first_few(names)}" for what, names in differences.items() if names)
        raise InputError(f"{folder}: its weights don't fit its config.json: {words}; give weights of that network")
    return cast(nn.Module, module)


@contextmanager
def quietly(logging: Any) -> Iterator[None]:
    """Silence transformers' bars and reports: one line of ours says what went wrong."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


MAX_JSON_BYTES = 2**24
INTERPOLATION = {2: "bilinear", 3: "bicubic"}  # as Pillow counts them
SQUASHED = "its processor squashes the photo to a square: crop=1 takes the centre square in its place"
PLACEHOLDER = "LABEL_0"  # what transformers calls the first class of a network that names none


def metadata_of(config: dict[str, Any], processor: dict[str, Any]) -> Metadata:
    """Collect what the folder's two files say."""
    size, crop, remark = geometry(processor)
    mean, std = normalisation(processor)
    return Metadata(
        size=size,
        crop=crop,
        interpolation=INTERPOLATION.get(processor.get("resample", -1)),
        mean=mean,
        std=std,
        labels=labels_of(config),
        remark=remark if processor else "it has no preprocessor_config.json",
    )


def geometry(processor: dict[str, Any]) -> tuple[int | None, float | None, str]:
    """Work out size, crop fraction, and why there is none of them."""
    kind = str(processor.get("image_processor_type", processor.get("feature_extractor_type", "")))
    size, crop_size = processor.get("size"), processor.get("crop_size")
    short = size.get("shortest_edge") if isinstance(size, dict) else None
    side = square(size)
    cropped = square(crop_size) if processor.get("do_center_crop") else None
    if not processor.get("do_resize", True):
        return cropped, None, "its processor takes a crop of the photo as large as it is"
    if kind.startswith(("Levit", "PoolFormer")):
        return cropped, None, f"{kind} resizes in its own way"
    if kind.startswith("ConvNext") and short is not None and "crop_pct" in processor:
        if short < 384:
            return short, float(processor["crop_pct"]), ""
        return short, None, SQUASHED
    if cropped is not None and short is not None and cropped <= short:
        return cropped, cropped / short, ""
    if side is not None:
        return cropped or side, None, SQUASHED
    return cropped, None, f"{kind or 'its processor'} gives no square of the photo's centre"


def square(size: Any) -> int | None:
    """Return the side of {"height": 224, "width": 224} or 224; None of anything else."""
    if isinstance(size, dict):
        size = size.get("height") if size.get("height") == size.get("width") else None
    return size if isinstance(size, int) and not isinstance(size, bool) else None


def normalisation(processor: dict[str, Any]) -> tuple[Any, Any]:
    """Work out mean and std for pixels in 0..1; None where the file does not say."""
    if not processor or processor.get("rescale_offset"):
        return None, None
    factor = processor.get("rescale_factor", 1 / 255) if processor.get("do_rescale", True) else 1.0
    given = (processor.get("image_mean"), processor.get("image_std")) if processor.get("do_normalize") else (0.0, 1.0)
    mean, std = (scaled_triple(value, 1 / (255 * factor)) for value in given)
    return mean, std


def scaled_triple(value: Any, scale: float) -> tuple[float, float, float] | None:
    """Make three numbers of one or three, times `scale`; None where it is neither."""
    values = value if isinstance(value, list) else [value] * 3
    if len(values) != 3 or not all(isinstance(each, int | float) and math.isfinite(each) for each in values):
        return None
    return values[0] * scale, values[1] * scale, values[2] * scale


def labels_of(config: dict[str, Any]) -> tuple[str, ...] | None:
    """List the labels in class order; None where the classes have no names."""
    named = config.get("id2label")
    if not isinstance(named, dict) or not named:
        return None
    labels = tuple(str(named.get(str(number), "")) for number in range(len(named)))
    return None if not all(labels) or labels[0] == PLACEHOLDER else labels
