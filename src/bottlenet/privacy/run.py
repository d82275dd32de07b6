"""Attack one bundle: learn, rebuild photos that were not learned from, and measure, beside JPEG of the same size.

    config.data -> samples -> linear, attacker ---.
    test photos -> payloads of each budget -------+--> rebuilt photos --judge--> rows
                `-> JPEG of as many bytes --------'

What a folder holds already, samples and attacker, is not made again. The pictures show photos that may be passed on,
those that come with BottleNet, unless a folder is given.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from bottlenet.bundle import DEMO, Bundle
from bottlenet.errors import InputError
from bottlenet.files import write_whole
from bottlenet.net.models import load_model
from bottlenet.photo import photo_to_pixels
from bottlenet.photos.folders import choose, label_array, list_photos
from bottlenet.privacy import PrivacyConfig
from bottlenet.privacy.attacker import FIT_BATCH, Attacker, Perceived, batch_of, fit_linear, side_of, train_attacker
from bottlenet.privacy.measure import Judge, Originals, Quality, fitting_jpeg, resized
from bottlenet.privacy.samples import Divided, Records, Samples, Tap, centre_records, crop_records, divided, key_of
from bottlenet.runtime import open_tail, open_uncut, run_graph
from bottlenet.task import needs_one_label

ATTACKER, TILE, LINEAR, JPEG = "attacker", "linear, tile by tile", "linear", "jpeg"
LINEAR_RECORDS = 3000  # that the linear map of one budget is fitted on
JPEG_SIDE = 224  # of the crop that a JPEG is made of
TRAINED_BY = ("model", "width", "blocks", "epochs", "batch", "lr", "perceptual", "seed")
OWN_PHOTOS = DEMO.parent / "photos"
GAP, LINE = 4, 34  # pixels between photos, and above them for two lines of words
WEBP_QUALITY = 82

Pixels = NDArray[np.uint8]
Progress = Callable[[str, int, int], None]  # called with (what is being done, done, in all)


@dataclass(frozen=True)
class Rebuilt:
    """One way to get photos back, at one budget."""

    what: str  # one of the four above
    budget: int | None  # bytes of the payload, at most; None: the whole payload
    sent_bytes: float | None  # mean; of payloads, or of the JPEG scans that fit
    quality: Quality | None  # None: nothing fits
    missing: int  # photos of which no JPEG fits


@dataclass(frozen=True)
class Intended:
    """What the server is meant to see at a budget."""

    budget: int | None
    same_answer: float  # percent of photos: the tail's class is the uncut network's


@dataclass(frozen=True)
class PrivacyReport:
    """One bundle under this attack."""

    bundle: str
    bundle_id: str
    cut: str
    latent: tuple[int, ...]
    side: int  # of a rebuilt photo
    learned_from: int  # photos
    left_out: int  # photos that were given to learn from and are to be rebuilt as well
    samples: int
    steps: int
    rows: tuple[Rebuilt, ...]
    intended: tuple[Intended, ...]
    originals: Quality  # the test photos themselves, `side` pixels large: the most that can be had
    mean_psnr: float  # of the training photos' mean, which needs no payload

    def row(self, what: str, budget: int | None) -> Rebuilt:
        return next(row for row in self.rows if (row.what, row.budget) == (what, budget))

    def gain(self, budget: int | None, what: str = LINEAR) -> float:
        """Return the dB by which the attacker beats a linear map."""
        attacker, linear = (self.row(each, budget).quality for each in (ATTACKER, what))
        assert attacker is not None
        assert linear is not None
        return attacker.psnr - linear.psnr


class Attack:
    """Holds samples, attacker and test photos of a bundle. InputError: folders, numbers or a bundle that can't be."""

    def __init__(
        self, bundle: Bundle, config: PrivacyConfig, on_progress: Progress = lambda what, done, total: None
    ) -> None:
        self.bundle, self.config, self.folder = bundle, config, Path(config.out)
        self.on_progress = on_progress
        needs_one_label(bundle.manifest.task, "`bottlenet privacy`")
        _, height, width = bundle.manifest.latent
        if height != width:
            raise InputError(f"the latent is {height} x {width}; only square ones can be attacked: choose another cut")
        self.side = side_of(height, min(config.side, bundle.manifest.preprocess.size))
        self.uncut = open_uncut(bundle)
        self.tap = Tap(bundle)
        self.budgets: Sequence[int | None] = sorted(set(config.budgets)) or [bundle.manifest.budget_bytes or None]
        self.photos: Divided = divided(bundle, config)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.folder}: can't make this folder ({error.strerror}); give another --out") from error

    @cached_property
    def attacker(self) -> Attacker:
        """The attacker: trained now, or the one that is there."""
        samples = self.samples
        numbers = {name: value for name, value in asdict(self.config).items() if name in TRAINED_BY}
        path = self.folder / f"attacker-{key_of(samples.path.name, sorted(numbers.items()))}.safetensors"
        if path.exists():
            return Attacker.load(path, samples, self.config)
        perceived = None
        if self.config.perceptual:
            classifier = load_model(self.config.model or self.bundle.manifest.model)
            perceived = Perceived(classifier, self.bundle.manifest.cut, self.side)
        attacker = train_attacker(samples, self.config, perceived, self.step("training the attacker"))
        attacker.save(path)
        return attacker

    @cached_property
    def samples(self) -> Samples:
        config, train = self.config, self.photos.train
        files = [(str(photo.path), photo.path.stat().st_size) for photo in train]
        key = key_of(self.bundle.id, self.side, config.crops, config.seed, self.budgets, files)
        samples = Samples(self.folder / f"learned-{key}.samples", self.bundle.manifest.latent, self.side)
        records = crop_records(self.tap, train, self.side, crops=config.crops, budgets=self.budgets, seed=config.seed)
        samples.make(records, len(train) * config.crops, self.step("making samples"))
        return samples

    def test(self) -> tuple[Records, Originals]:
        photos = self.photos.test
        batches = []
        for batch in centre_records(self.tap, photos, self.side):
            batches.append(batch)
            self.step("reading photos to rebuild")(sum(map(len, batches)), len(photos))
        records = np.concatenate(batches)
        preprocess = self.bundle.manifest.uncut_preprocess
        scores = [
            run_graph(self.uncut, pixels=photo_to_pixels(photos[position].source(), preprocess)[None])
            for position in records["position"]
        ]
        labels = label_array([photos[position] for position in records["position"]])
        return records, Originals(records["pixels"], np.concatenate(scores), labels, records["position"])

    def sent(self, records: Records, budget: int | None) -> Records:
        """Return the records with what arrives within `budget`."""
        arrived = records.copy()
        for record in arrived:
            record["payload_bytes"], record["symbols_hat"] = self.tap.sent(record["symbols"], budget)
        return arrived

    def intended(self, sent: Records, originals: Originals) -> float:
        """Return the percent of photos to which the server gives the uncut network's answer."""
        tail = open_tail(self.bundle)
        answers = np.concatenate([run_graph(tail, symbols=one["symbols_hat"][None]) for one in sent]).argmax(1)
        return 100 * float((answers == originals.scores.argmax(1)).mean())

    def step(self, what: str) -> Callable[[int, int], None]:
        return partial(self.on_progress, what)


def run_attack(attack: Attack) -> PrivacyReport:
    """Train what is missing and measure this attacker. InputError: a budget or a model that can't be had."""
    samples, attacker, bundle = attack.samples, attack.attacker, attack.bundle
    records, originals = attack.test()
    judge = Judge(originals, attack.uncut, bundle.manifest.uncut_preprocess.size)
    rows: list[Rebuilt] = []
    intended = []
    for budget in attack.budgets:
        sent = attack.sent(records, budget)
        size = float(sent["payload_bytes"].mean())
        # The best linear maps for this one budget: they need not serve the others, as the attacker does.
        learned = (attack.sent(each, budget) for each in samples.batches(FIT_BATCH, 0, LINEAR_RECORDS))
        count = -(-min(LINEAR_RECORDS, len(samples)) // FIT_BATCH)
        linear = fit_linear((batch_of(each, attacker.scale) for each in learned), count)
        for what, rebuild in ((ATTACKER, attacker.inverter), (TILE, linear.tile), (LINEAR, linear.around)):
            rows.append(Rebuilt(what, budget, size, judge.judge(attacker.rebuilt(sent, rebuild)), 0))
        rows.append(jpeg_row(attack, originals, judge, budget, round(size) if budget is None else budget))
        intended.append(Intended(budget, attack.intended(sent, originals)))
    mean = mean_photo(samples)
    return PrivacyReport(
        bundle=bundle.manifest.name,
        bundle_id=bundle.id.hex(),
        cut=bundle.manifest.cut,
        latent=bundle.manifest.latent,
        side=attack.side,
        learned_from=len(attack.photos.train),
        left_out=attack.photos.left_out,
        samples=len(samples),
        steps=attacker.steps,
        rows=tuple(rows),
        intended=tuple(intended),
        originals=judge.judge(originals.pixels),
        mean_psnr=judge.judge(np.repeat(mean[None], len(originals.pixels), 0)).psnr,
    )


def jpeg_row(attack: Attack, originals: Originals, judge: Judge, budget: int | None, most: int) -> Rebuilt:
    """Encode photos as JPEG of at most `most` bytes; those that don't fit are missing."""
    found = {}
    preprocess = replace(attack.bundle.manifest.preprocess, size=JPEG_SIDE)
    for number, position in enumerate(originals.positions):
        pixels = photo_to_pixels(attack.photos.test[position].source(), preprocess)
        if (jpeg := fitting_jpeg(pixels, most, attack.side)) is not None:
            found[number] = jpeg
        attack.step("fitting JPEG")(number + 1, len(originals.pixels))
    missing = len(originals.pixels) - len(found)
    if not found:
        return Rebuilt(JPEG, budget, None, None, missing)
    photos = np.stack([jpeg.pixels for jpeg in found.values()])
    size = float(np.mean([jpeg.scan_bytes for jpeg in found.values()]))
    return Rebuilt(JPEG, budget, size, judge.judge(photos, list(found)), missing)


def mean_photo(samples: Samples) -> NDArray[np.uint8]:
    """Average all samples to (side, side, 3)."""
    total, count = np.zeros(samples.dtype["pixels"].shape), 0
    for records in samples.batches(FIT_BATCH):
        total += records["pixels"].sum(0, dtype=np.float64)
        count += len(records)
    return cast(NDArray[np.uint8], (total / count).round().astype(np.uint8))


def draw_pictures(attack: Attack) -> Path:
    attacker = attack.attacker
    photos = choose(list_photos(attack.config.show or OWN_PHOTOS), attack.config.shown)
    records = np.concatenate(list(centre_records(attack.tap, photos, attack.side)))
    preprocess = replace(attack.bundle.manifest.preprocess, size=JPEG_SIDE)
    large = [photo_to_pixels(photos[position].source(), preprocess) for position in records["position"]]
    columns: list[tuple[str, Sequence[Pixels | None]]] = [("original", list(records["pixels"]))]
    for budget in attack.budgets:
        sent = attack.sent(records, budget)
        most = round(float(sent["payload_bytes"].mean())) if budget is None else budget
        columns.append((f"{most:,} bytes,\nattacker", list(attacker.rebuilt(sent))))
        fitting = [fitting_jpeg(pixels, most, attack.side) for pixels in large]
        columns.append((f"{most:,} bytes,\nJPEG", [None if each is None else each.pixels for each in fitting]))
    path = attack.folder / "pictures.webp"
    write_whole(path, side_by_side(columns, attack.side))
    return path


def side_by_side(columns: Sequence[tuple[str, Sequence[Pixels | None]]], side: int) -> bytes:
    """Draw columns with their names above, as a WebP file; None is a photo that is missing."""
    cell = max(side, 96)
    rows = len(columns[0][1])
    size = (GAP + len(columns) * (cell + GAP), LINE + rows * (cell + GAP))
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for column, (name, photos) in enumerate(columns):
        left = GAP + column * (cell + GAP)
        draw.multiline_text((left, 2), name, fill="black", font=font, spacing=2)
        for row, photo in enumerate(photos):
            top = LINE + row * (cell + GAP)
            if photo is None:
                draw.rectangle((left, top, left + cell - 1, top + cell - 1), outline="black")
                draw.text((left + 8, top + cell // 2 - 8), "none fits", fill="black", font=font)
            else:
                sheet.paste(Image.fromarray(resized(photo, cell)), (left, top))
    file = io.BytesIO()
    sheet.save(file, "webp", quality=WEBP_QUALITY, method=6)
    return file.getvalue()
