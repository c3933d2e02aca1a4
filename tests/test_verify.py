"""`verify` finds what is wrong and names it."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from commands import run_prep

from prep.engines.engine import Engine
from prep.inspect.verify import verify
from shards.checks import row_faults
from shards.dataset import masking_of
from shards.errors import UserError
from shards.formats import FORMATS
from shards.gate.rows import Limits
from shards.manifest import Manifest, fingerprint
from shards.schema import Rows, columns_sha256
from shards.template import Template


@pytest.fixture(scope="module", params=sorted(FORMATS))
def original(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, paragraphs: list[str], vocabulary: Path
) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    (folder / "a.txt").write_text("\n".join(paragraphs[:500]), encoding="utf8")
    places = ("--corpus", folder / "a.txt", "--out", folder / "out", "--scratch", folder / "scratch")
    more = ("--tokenizer", vocabulary, "--shard-bytes", "64KB", "--format", request.param)
    done = run_prep("build", *places, *more)
    assert done.returncode == 0, done.stderr
    return folder / "out"


@pytest.fixture
def data_set(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_good_data_set_is_good(original: Path) -> None:
    done = run_prep("verify", original)
    assert done.returncode == 0 and "nothing wrong" in done.stdout


def first_shard(data_set: Path) -> Path:
    return next(iter(sorted((data_set / "train").iterdir())))


def flip(data_set: Path) -> str:
    shard = first_shard(data_set)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    return f"{shard}: its sha256 is not the manifest's"


def truncate(data_set: Path) -> str:
    shard = first_shard(data_set)
    shard.write_bytes(shard.read_bytes()[:-100])
    return f"{shard}: has "


def delete(data_set: Path) -> str:
    shard = first_shard(data_set)
    shard.unlink()
    return f"{shard}: is missing"


def swap(data_set: Path) -> str:
    first, second, *_ = sorted((data_set / "train").iterdir())
    third = first.with_name("swap")
    first.rename(third)
    second.rename(first)
    third.rename(second)
    return f"{first}: its sha256"


def stranger(data_set: Path) -> str:
    shard = first_shard(data_set)
    shutil.copyfile(shard, shard.with_name(f"999999{shard.name[6:]}"))
    return f"{shard.with_name(f'999999{shard.name[6:]}')}: is not in the manifest"


def tokenizer_changed(data_set: Path) -> str:
    path = data_set / "tokenizer" / "tokenizer.json"
    path.write_text(path.read_text().replace("##ing", "##gni", 1))
    return f"{path}: its sha256"


def vocabulary_changed(data_set: Path) -> str:
    path = data_set / "tokenizer" / "vocab.txt"
    path.write_text(path.read_text() + "more\n")
    return f"{path}: its sha256"


def nested_stranger(data_set: Path) -> str:
    shard = first_shard(data_set)
    (shard.parent / "sub").mkdir()
    shutil.copyfile(shard, shard.parent / "sub" / shard.name)
    return f"{shard.parent / 'sub' / shard.name}: is not in the manifest"


def tokenizer_gone(data_set: Path) -> str:
    (data_set / "tokenizer" / "tokenizer.json").unlink()
    return "tokenizer.json: is missing"


DAMAGES: list[Callable[[Path], str]] = [flip, truncate, delete, swap, stranger, tokenizer_changed]
DAMAGES += [vocabulary_changed, nested_stranger, tokenizer_gone]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_each_damage_is_named(damage: Callable[[Path], str], data_set: Path) -> None:
    message = damage(data_set)
    faults = verify(str(data_set), workers=1)
    assert any(message in fault for fault in faults), faults


def numbers_in(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [place for key, part in value.items() for place in numbers_in(part, (*path, key))]
    if isinstance(value, list):
        return [place for index, part in enumerate(value[:2]) for place in numbers_in(part, (*path, index))]
    return [path] if isinstance(value, int) and not isinstance(value, bool) else []


def test_any_number_of_the_manifest_that_is_changed_is_noticed(data_set: Path) -> None:
    """Also by one who makes its own digest fit again, for what the shards or the sums can tell."""
    path = data_set / "manifest.json"
    value = json.loads(path.read_text())
    places = numbers_in(value)
    assert len(places) > 60
    for place in places:
        changed = json.loads(path.read_text())
        holder = changed
        for key in place[:-1]:
            holder = holder[key]
        holder[place[-1]] += 1
        try:
            _, faults = Manifest.from_json(json.dumps(changed).encode(), "m")
        except UserError as error:  # out of bounds, or against another field
            assert str(place[-1]) in str(error) or place[-2] in ("row_groups", 0), (place, error)
            continue
        assert any("was changed after it was written" in fault for fault in faults), place


def places_in(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    return [path] * bool(path) + [place for key, part in inside for place in places_in(part, (*path, key))]


@pytest.mark.parametrize("original", ["parquet"], indirect=True)  # the other format has the same manifest
def test_a_manifest_with_a_field_missing_or_of_another_type_is_named(data_set: Path) -> None:
    path = data_set / "manifest.json"
    original = path.read_text()
    for place in places_in(json.loads(original)):
        if place[0] == "made_with" or len(place) > 5 or "histogram" in str(place[-2:]):
            continue
        for wrong in (None, "wrong"):
            changed = json.loads(original)
            holder = changed
            for key in place[:-1]:
                holder = holder[key]
            if wrong is None and isinstance(holder, dict):
                del holder[place[-1]]
            else:
                holder[place[-1]] = wrong
            path.write_text(json.dumps(changed))
            assert quick_verify(str(data_set)), place


def quick_verify(url: str) -> list[str]:
    """`verify` with the shards checked in this process."""
    with pytest.MonkeyPatch.context() as patch:
        engine = Engine(InProcess(), lambda: 1, elsewhere=False)
        patch.setattr("prep.inspect.verify.open_engine", lambda *_: nullcontext(engine))
        return verify(url, workers=1)


class InProcess(Executor):
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # an executor hands on whatever it is
            future.set_exception(error)
        return future


class Deadly(InProcess):
    """An executor on which the check of some shards ends the worker."""

    def __init__(self, deadly: str) -> None:
        self.deadly = deadly

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self.deadly not in args[0].url:
            return super().submit(fn, *args, **kwargs)
        future: Future[Any] = Future()
        future.set_exception(BrokenExecutor())
        return future


def test_a_shard_that_ends_its_worker_is_a_fault_and_the_rest_is_checked(
    data_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadly = first_shard(data_set)
    other = sorted((data_set / "train").iterdir())[-1]
    other.unlink()
    engine = Engine(Deadly(deadly.name), lambda: 1, elsewhere=False)
    monkeypatch.setattr("prep.inspect.verify.open_engine", lambda *_: nullcontext(engine))
    faults = verify(str(data_set), workers=1)
    assert [fault.partition(": ")[0] for fault in faults] == [str(deadly), str(other)]
    assert "decoding it ends the process" in faults[0] and "is missing" in faults[1]


@pytest.mark.parametrize(
    "field", ["rows", "tokens", "masked_tokens", "not_next", "max_row_tokens", "max_sequence_tokens", "max_masked_per_row"]
)
def test_a_forged_count_of_a_shard_is_noticed(field: str, data_set: Path) -> None:
    path = data_set / "manifest.json"
    value = json.loads(path.read_text())
    value["splits"]["train"]["shards"][0][field] += 1
    value.pop("sha256")
    path.write_text(json.dumps(value | {"sha256": fingerprint(value)}))
    faults = verify(str(data_set), workers=1)
    assert any(f"{field} is " in fault for fault in faults), faults


def test_each_broken_invariant_of_rows_is_named(original: Path) -> None:
    manifest, _ = Manifest.from_json((original / "manifest.json").read_bytes(), "m")
    shard = manifest.splits["train"].shards[0]
    special, size = manifest.tokenizer["special_ids"], manifest.tokenizer["vocab_size"]

    def faults(change: Callable[[Rows], object]) -> str:
        rows = FORMATS[manifest.settings["format"]].read(str(original / shard.path), shard.row_groups)
        rows = rows.slice(0, len(rows))
        rows = Rows(**{name: None if value is None else value.copy() for name, value in vars(rows).items()})
        change(rows)
        template = Template.of(manifest.tokenizer, paired=True)
        rule = masking_of(str(original), manifest)
        return " | ".join(row_faults(rows, Limits(size, row_tokens=512), special, rule, template))

    def put(name: str, index: Any, value: int) -> Callable[[Rows], object]:
        return lambda rows: getattr(rows, name).__setitem__(index, value)

    assert faults(lambda rows: None) == ""
    assert "the vocabulary has" in faults(put("input_ids", 5, size))
    assert "does not start with [CLS]" in faults(put("input_ids", 0, 7))
    assert "[CLS], [SEP] or [PAD] inside a segment" in faults(put("input_ids", 1, special["pad"]))
    assert "do not sum" in faults(put("sequence_lengths", 0, 3))
    assert "segment_a_lengths" in faults(put("segment_a_lengths", 0, 1))
    assert "does not end with [SEP]" in faults(put("segment_a_lengths", 0, 5))
    assert "allowed are 0 and 1" in faults(put("next_sentence_label", 0, 2))
    assert "outside its row" in faults(put("masked_positions", 0, 600))
    assert "not strictly ascending" in faults(put("masked_positions", 1, 0))
    assert "masked_labels holds a special token" in faults(put("masked_labels", 0, special["sep"]))
    assert "does not name" in faults(lambda rows: unmask_position(rows, special["mask"]))


def unmask_position(rows: Rows, mask_id: int) -> None:
    """Writes [MASK] over a token that is not masked."""
    masked = set(rows.masked_indices().tolist())
    free = next(i for i in range(1, 100) if i not in masked and rows.input_ids[i] > 10)
    rows.input_ids[free] = mask_id


def test_fields_of_later_releases_are_passed_over(original: Path) -> None:
    value = json.loads((original / "manifest.json").read_text())
    value["later"] = 1
    value["splits"]["train"]["later"] = value["splits"]["train"]["shards"][0]["later"] = {"a": 1}
    value.pop("sha256")
    manifest, faults = Manifest.from_json(json.dumps(value | {"sha256": fingerprint(value)}).encode(), "m")
    assert not faults and manifest.splits["train"].shards


def test_both_formats_have_the_same_digests(original: Path) -> None:
    manifest, _ = Manifest.from_json((original / "manifest.json").read_bytes(), "m")
    for shard in manifest.splits["train"].shards:
        rows = FORMATS[manifest.settings["format"]].read((original / shard.path).read_bytes(), shard.row_groups)
        assert columns_sha256(rows) == shard.columns_sha256
