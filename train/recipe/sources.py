"""The data sets of a run: opened once each, checked to be alike, with the order of their rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count

from shards.dataset import open_data_set
from shards.errors import UserError
from shards.manifest import Manifest, Shards
from shards.randomness import Purpose, address
from train.data.order import ORDER_VERSION, WINDOW_ROWS, Order, RowGroups
from train.data.row_groups import check_sizes
from train.settings import Settings

SPLIT, EVAL_SPLIT = "train", "eval"


@dataclass(frozen=True)
class Served:
    """How a data set was read up to some position of a run: `seed` and `lanes` of its order, and the number of rows."""

    seed: int
    lanes: int
    rows: int


@dataclass(frozen=True)
class Source:
    """A data set of the run. Its order is the same in all phases."""

    name: str
    url: str
    manifest: Manifest
    order: Order

    @property
    def fingerprint(self) -> str:
        """What identifies its rows."""
        return self.manifest.data_fingerprint

    @property
    def shards(self) -> tuple[str, Shards]:
        """Its URL, and its shards to train on."""
        return self.url, self.manifest.splits[SPLIT].shards

    @property
    def mean_tokens(self) -> float:
        """Tokens per row of the training split."""
        totals = self.manifest.splits[SPLIT].totals()
        return totals["tokens"] / max(1, totals["rows"])

    def describe_order(self) -> dict[str, str | int]:
        """The part of a checkpoint's record that identifies the order of its rows."""
        return {
            "version": ORDER_VERSION,
            "lanes": self.order.lanes,
            "window_rows": WINDOW_ROWS,
            "row_groups": self.order.groups.fingerprint,
        }


def open_manifests(recipe: Sequence[Settings], check: bool) -> dict[str, Manifest]:
    """The manifests of all data sets by URL. `check` looks at the size of each shard, too.

    Raises UserError, with the number of the phase, for a data set that is missing, damaged, or has another tokenizer.
    """
    manifests: dict[str, Manifest] = {}
    for index, settings in enumerate(recipe):
        for url in settings.data:
            try:
                if url not in manifests:
                    manifests[url] = _open(url, check)
                first = next(iter(manifests))
                if manifests[url].tokenizer["fingerprint"] != manifests[first].tokenizer["fingerprint"]:
                    raise UserError(f"--data {url}: has another tokenizer than {first}; build both with the same one")
            except UserError as error:
                name_phase(error, index, recipe)
                raise
    return manifests


def _open(url: str, check: bool) -> Manifest:
    manifest = open_data_set(url)
    if SPLIT not in manifest.splits or EVAL_SPLIT not in manifest.splits:
        raise UserError(f"{url}: its manifest has no splits train and eval; build it again")
    for split in manifest.splits if check else ():
        check_sizes(url, manifest, split)
    return manifest


def name_phase(error: UserError, index: int, recipe: Sequence[Settings]) -> None:
    """Adds the number of its phase to an error, if there are several."""
    if len(recipe) > 1:
        error.args = (f"phase {index + 1}: {error}",)


def sources_of(
    settings: Settings, manifests: Mapping[str, Manifest], known: Sequence[Source], served: Mapping[str, Served]
) -> list[Source]:
    """The data sets of a phase. Those of earlier phases are `known`; `served` are those of a checkpoint.

    Two URLs of the same rows are one data set. Raises UserError when a phase names one twice.
    """
    own: list[Source] = []
    for url in settings.data:
        manifest, others = manifests[url], [*known, *own]
        source = next((source for source in others if source.fingerprint == manifest.data_fingerprint), None)
        if source is None:
            number = len(served.keys() | {source.fingerprint for source in others})
            earlier = served.get(manifest.data_fingerprint, Served(_seed(settings.seed, number), 0, 0))
            groups = RowGroups.of(manifest.splits[SPLIT])
            order = Order(groups, earlier.seed, settings.global_batch, settings.micro_batch, lanes=earlier.lanes)
            source = Source(_name(url, [source.name for source in others]), url, manifest, order)
        if source in own:
            raise UserError(f"--data {url}: has the rows of {source.url}, which the phase reads too; name each data set once")
        own.append(source)
    return own


def _seed(seed: int, number: int) -> int:
    """The seed of the run's data set `number`: that of the run for the first one, as in a run of one data set."""
    return seed if number == 0 else int(address(seed, Purpose.SOURCE, number)) >> 1


def _name(url: str, others: Sequence[str]) -> str:
    """The last part of a URL, with a number where another data set has that name."""
    name = url.rstrip("/").rpartition("/")[2] or url
    candidates = chain([name], (f"{name}-{number}" for number in count(2)))
    return next(candidate for candidate in candidates if candidate not in others)
