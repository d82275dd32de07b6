"""Sources and wishes -> a page, or what is in it for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bottlenet.bundle import Bundle
from bottlenet.check import shown
from bottlenet.errors import InputError
from bottlenet.lab.bench import Report
from bottlenet.lab.report.accuracy import accuracy_section, front_section, sweep_section
from bottlenet.lab.report.others import other_section
from bottlenet.lab.report.page import Made, page
from bottlenet.lab.report.partitions import Wish, latency_section, plan_section
from bottlenet.lab.report.parts import Section
from bottlenet.lab.report.photos import LIMIT, MOST_SHOWN, SHOWN, Progress, photo_sections
from bottlenet.lab.report.sources import KNOWN, Evaluated, Source, read_sources
from bottlenet.lab.report.training import naive_section, training_section
from bottlenet.plan.profile import Profile


@dataclass(frozen=True)
class Photos:
    """Whose photos are shown. InputError: a number out of range."""

    bundle: Bundle
    data: str
    shown: int = SHOWN
    limit: int = LIMIT
    budget_bytes: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.shown <= MOST_SHOWN:
            raise InputError(f"photos is {self.shown}; give 1 to {MOST_SHOWN}")
        if self.limit < self.shown:
            raise InputError(f"limit is {self.limit}; give at least the {self.shown} photos that are shown")


@dataclass(frozen=True)
class ReportPage:
    """The page, and what is in it."""

    html: str
    sources: tuple[Source, ...]
    sections: tuple[Section, ...]


def report(
    paths: Sequence[Path],
    made: Made,
    *,
    wish: Wish = Wish(),  # noqa: B008 - frozen
    photos: Photos | None = None,
    on_progress: Progress | None = None,
) -> ReportPage:
    """InputError: no source, see `read_sources`; a bundle of which no profile or bench is; see `photo_sections`."""
    sources = read_sources(paths)
    if photos is not None:
        check_bundle(photos.bundle, sources)
    if not sources and photos is None:
        raise InputError(f"there is nothing to report; give {KNOWN}, or --bundle with --data")
    sections = [
        accuracy_section(sources, made.command),
        sweep_section(sources),
        naive_section(sources),
        front_section(sources, made.command),
        latency_section(sources, wish, made.command),
        plan_section(sources, wish),
        training_section(sources),
    ]
    if photos is not None:
        sections += photo_sections(
            photos.bundle,
            photos.data,
            shown=photos.shown,
            limit=photos.limit,
            budget_bytes=photos.budget_bytes,
            on_progress=on_progress,
        )
    sections.append(other_section(sources))
    there = tuple(section for section in sections if section.figures or section.tables)
    return ReportPage(page(there, sources, made), sources, there)


def check_bundle(bundle: Bundle, sources: Sequence[Source]) -> None:
    """InputError: another network's, or none of the profiles, benches and evaluations is of it."""
    for source in sources:
        if source.kind != "record" and source.model and source.model != bundle.manifest.model:
            raise InputError(
                f"{source.path} is of the network {shown(source.model)}, and bundle {bundle.manifest.name} of "
                f"{shown(bundle.manifest.model)}; give sources of one network"
            )
    ids = {one: source for source in sources for one in bundles_of(source)}
    if ids and bundle.id.hex() not in ids:
        one, source = next(iter(ids.items()))
        raise InputError(
            f"{source.path} is of bundle {one[:12]}, and nothing that is given is of {bundle.id.hex()[:12]}, bundle "
            f"{bundle.manifest.name}; give sources of that bundle, or another --bundle"
        )


def bundles_of(source: Source) -> Sequence[str]:
    """The ids that a source names."""
    content = source.content
    if isinstance(content, Profile):
        return (content.bundle_id,)
    if isinstance(content, Report):
        return content.bundles
    return (content.origin.bundle,) if isinstance(content, Evaluated) and content.origin.bundle else ()
