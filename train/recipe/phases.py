"""The phases of a run: what each reads, how many steps it has, and where it begins.

Settings, sources -> masks, shape, mixture, batches -> PhaseOrder -> Phase; the next phase begins where it ends

Steps and positions of the run count on over the phases; those of a phase count from its start.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from shards.dataset import masking_of
from shards.errors import UserError
from shards.gate.manifest import SINGLE_SEGMENT
from shards.manifest import Manifest
from shards.masking import Masking
from train.data.batches import Batches, batches_of
from train.data.layout import Shape
from train.data.mixture import Mixture, mixture_of
from train.data.phase_order import PhaseOrder
from train.data.reader import RankSlice
from train.optimizers.schedules import Schedule
from train.recipe.sources import SPLIT, Served, Source, name_phase, sources_of
from train.settings import MaskSource, Settings


@dataclass(frozen=True)
class Start:
    """Where a start of a run begins: at a step and position of the run, in a phase that began at others."""

    phase: int = 0  # index
    step: int = 0
    position: int = 0
    phase_step: int = 0
    phase_position: int = 0
    served: Mapping[str, Served] = field(default_factory=dict)  # by fingerprint: each data set, up to the start of the phase


@dataclass(frozen=True)
class Phase:
    """One phase. `number` counts from 1."""

    number: int
    settings: Settings
    sources: Sequence[Source]
    masking: Masking | None  # the rule for masks drawn on reading; None: the stored ones
    shape: Shape
    order: PhaseOrder
    first_step: int  # of the run
    first_position: int  # of the run
    begun_step: int  # of the phase, where this start begins
    begun_position: int  # of the phase
    end: int  # rows of the phase
    earlier: Mapping[str, Served]  # by fingerprint: how each data set was read before the phase

    @property
    def num_steps(self) -> int:
        """Steps of the whole phase. The last one may be short."""
        return self.slice_of(0, 1).steps(self.order.batches).stop

    @property
    def end_step(self) -> int:
        """The step of the run with which the next phase begins."""
        return self.first_step + self.num_steps

    def slice_of(self, rank: int, world_size: int) -> RankSlice:
        """What a rank reads of the phase, from where this start begins."""
        return RankSlice(rank, world_size, self.begun_step, self.begun_position, self.end)

    def position(self, step: int) -> int:
        """The position of the run at which one of its steps begins, which is in this phase."""
        return self.first_position + self.slice_of(0, 1).start_of(step - self.first_step, self.order.batches)

    def rows_of(self, step: int) -> int:
        """The rows of a step of the run."""
        return self.position(step + 1) - self.position(step)

    def schedule(self, num_run_steps: int) -> tuple[Schedule, int]:
        """The schedule of the learning rate, and the step of the run with which it begins."""
        if self.settings.span == "run":
            return self.settings.learning_rates(num_run_steps), 0
        return self.settings.learning_rates(self.num_steps), self.first_step

    def served(self, position: int) -> dict[str, Served]:
        """How each data set was read up to a position of the phase."""
        own = {
            source.fingerprint: Served(source.order.seed, source.order.lanes, self.order.source_position(number, position))
            for number, source in enumerate(self.sources)
        }
        return {**self.earlier, **own}

    def epochs(self) -> Iterator[tuple[Source, float]]:
        """How often the phase reads the rows of each source."""
        for number, source in enumerate(self.sources):
            rows = self.order.source_position(number, self.end) - self.order.firsts[number]
            yield source, rows / source.order.groups.num_rows

    def mean_tokens(self) -> float:
        """Tokens per row, over all sources."""
        return mean_tokens(self.order.mixture, self.sources)


def lay_out(recipe: Sequence[Settings], manifests: Mapping[str, Manifest], start: Start) -> list[Phase]:
    """The phases of a recipe. Those before `start.phase` are done: they only say which data sets are known.

    Raises UserError with the number of the phase, if there are several.
    """
    phases: list[Phase] = []
    sources: list[Source] = []
    step, position, served = start.phase_step, start.phase_position, dict(start.served)
    for index, settings in enumerate(recipe):
        try:
            own = sources_of(settings, manifests, sources, start.served)
            sources += [source for source in own if source not in sources]
            begun = (start.step - step, start.position - position) if index == start.phase else (0, 0)
            phase = _phase(index + 1, settings, own, served, (step, position), begun)
        except UserError as error:
            name_phase(error, index, recipe)
            raise
        phases.append(phase)
        if index >= start.phase:
            step, position, served = phase.end_step, position + phase.end, phase.served(phase.end)
    return phases


def _phase(
    number: int,
    settings: Settings,
    sources: Sequence[Source],
    served: Mapping[str, Served],
    first: tuple[int, int],
    begun: tuple[int, int],
) -> Phase:
    masking = _masking(settings, sources)
    settings = replace(settings, masking="dynamic" if masking else "stored")
    shape = _shape(sources, settings.micro_batch, masking, settings.ignore_pairs)
    weights = settings.weights or (1.0,) * len(sources)
    mixture = mixture_of(weights, [source.mean_tokens for source in sources])
    firsts = [served[s.fingerprint].rows if s.fingerprint in served else 0 for s in sources]
    batches, rows = _length(settings, sources, mixture)
    order = PhaseOrder([source.order for source in sources], firsts, mixture, batches)
    if settings.steps or settings.tokens:
        rows = begun[1] + batches.rows_before(batches.num_steps) - batches.rows_before(begun[0])
    return Phase(number, settings, sources, masking, shape, order, *first, *begun, rows, served)


def _length(settings: Settings, sources: Sequence[Source], mixture: Mixture) -> tuple[Batches, int]:
    """The batches of a phase, and the number of its rows if `epochs` says it."""
    growing = (settings.global_batch, settings.micro_batch, settings.end_global_batch)
    mean_batch = (settings.global_batch + (settings.end_global_batch or settings.global_batch)) / 2
    if settings.steps:
        return batches_of(*growing, settings.steps), 0
    if settings.tokens:
        return batches_of(*growing, max(1, round(settings.tokens / mean_tokens(mixture, sources) / mean_batch))), 0
    rows = settings.epochs * sum(source.order.groups.num_rows for source in sources)
    num_steps = max(1, round(rows / mean_batch))
    while batches_of(*growing, num_steps).rows_before(num_steps) < rows:
        num_steps += 1
    return batches_of(*growing, num_steps), rows


def mean_tokens(mixture: Mixture, sources: Sequence[Source]) -> float:
    """Tokens per row of a mixture."""
    tokens = sum(count * source.mean_tokens for count, source in zip(mixture.counts, sources, strict=True))
    return tokens / mixture.period


def _masking(settings: Settings, sources: Sequence[Source]) -> Masking | None:
    """The rule for masks drawn on reading, or None where the stored ones are used. Raises UserError."""
    _check_alike("sentence pairs", [source.manifest.settings["pairing"] not in SINGLE_SEGMENT for source in sources])
    _check_alike("stored masks", [source.manifest.settings["masking"] == "static" for source in sources])
    changes: dict[str, Any] = {"mask_prob": settings.mask_prob} if settings.mask_prob else {}
    changes |= {"mask_unit": settings.mask_unit} if settings.mask_unit != "auto" else {}
    if settings.masking == "stored" and changes:
        raise UserError("--mask-prob and --mask-unit are for masks drawn on reading; set --masking dynamic")
    masking: MaskSource = "dynamic" if changes else settings.masking
    changed = [replace(source.manifest, settings=source.manifest.settings | changes) for source in sources]
    rules = [choose_masking(masking, source.url, manifest) for source, manifest in zip(sources, changed, strict=True)]
    if any(rule != rules[0] for rule in rules):
        raise UserError("--data: its data sets were built with different masks; set --mask-prob and --mask-unit")
    return rules[0]


def _check_alike(what: str, have_it: Sequence[bool]) -> None:
    """Raises UserError if some data sets of a phase have what others lack: their rows would have other columns."""
    if any(have_it) and not all(have_it):
        raise UserError(f"--data: some of its data sets have {what} and some have none; build them alike")


def choose_masking(masking: MaskSource, url: str, manifest: Manifest) -> Masking | None:
    """The rule for masks drawn on reading, if `--masking auto|stored|dynamic` means such. Raises UserError."""
    is_stored = manifest.settings["masking"] == "static"
    if masking == "stored" and not is_stored:
        raise UserError(f"--masking stored: {url} was built with --masking dynamic and has no masks; use dynamic")
    if masking not in get_args(MaskSource):  # of ShardStream, whose caller need not use mypy
        raise UserError(f"--masking is {masking!r}, must be one of {', '.join(get_args(MaskSource))}")
    return masking_of(url, manifest) if masking == "dynamic" or not is_stored else None


def _shape(sources: Sequence[Source], micro_batch: int, masking: Masking | None, ignores_pairs: bool) -> Shape:
    """The shape that holds the rows of every source."""
    shapes = [Shape.of(source.manifest, SPLIT, micro_batch, masking, ignores_pairs) for source in sources]
    return Shape(*(max(getattr(shape, name) for shape in shapes) for name in Shape.__dataclass_fields__))
