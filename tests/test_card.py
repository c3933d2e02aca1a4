"""The card of a data set: what the Hub and `datasets` make of it, and that it says nothing of this machine."""

import shlex
from pathlib import Path
from typing import Any, get_args

import datasets
import pytest
import yaml
from commands import manifest_of, run_prep
from conftest import BuildRunner
from datasets_of_rows import write_data_set

from prep.__main__ import make_parser
from prep.card import command, make_card
from prep.settings import Pairing, Settings, from_arguments
from shards.manifest import Manifest, ShardInfo, Split

LEDGER = {"documents": {"in": 3, "used": 2, "dropped": {"no_sentence": 1}}}
MANY = {"files": 12, "bytes": 5, "sha256": "", "listed": [{"name": f"{n}.txt", "bytes": 1} for n in range(12)]}


SHARD = ShardInfo("train/000000-0000.parquet", 9, "0" * 64, "0" * 64, 1, 1, 9, 1, 0, 0, 9, 9, 1, 1, ())
SPLITS = {"train": Split((SHARD,)), "eval": Split(())}


def manifest(**settings: Any) -> Manifest:
    """Made by hand: one train shard and nothing held out."""
    basic = Settings(corpus=("a.txt",), out="out").recipe("train:8192")
    inputs = {"files": 1, "bytes": 5, "sha256": "", "listed": [{"name": "a.txt", "bytes": 5}]}
    return Manifest(basic | settings, {}, inputs, SPLITS, LEDGER, {}, recipe_version=1)


def front_matter(card: str) -> dict[str, Any]:
    _, front, _ = card.split("---\n", 2)
    values: dict[str, Any] = yaml.safe_load(front)
    return values


def load(folder: Path, cache: Path, *config: str) -> dict[str, list[dict[str, Any]]]:
    datasets.disable_progress_bars()
    return {name: list(rows) for name, rows in datasets.load_dataset(str(folder), *config, cache_dir=str(cache)).items()}


def test_a_build_leaves_a_card_that_datasets_loads_and_verify_accepts(
    paragraphs: list[str], build: BuildRunner, tmp_path: Path
) -> None:
    (tmp_path / "some.txt").write_text("\n".join(paragraphs[:300]) + "\n", encoding="utf8")
    out = build(tmp_path / "some.txt")
    card = (out / "README.md").read_text(encoding="utf8")
    made, _ = Manifest.from_json((out / "manifest.json").read_bytes(), "m")
    assert card == make_card(made).decode() and str(tmp_path) not in card
    front = front_matter(card)
    assert front["language"] == ["en"] and front["task_categories"] == ["fill-mask"] and front["license"] == "unknown"
    rows = load(out, tmp_path / "cache")
    splits = manifest_of(out)["splits"]
    assert {name: len(part) for name, part in rows.items()} == {name: splits[name]["rows"] for name in ("train", "eval")}
    assert sum(len(row["masked_positions"]) for row in rows["train"]) == splits["train"]["masked_tokens"]
    (out / "README.md").write_text("# Mine\n")  # people name their licence in it
    assert run_prep("verify", out).returncode == 0


@pytest.mark.parametrize(("format", "column"), [("parquet", None), ("webdataset", "npz")])
def test_splits_with_different_columns_are_two_configurations(format: str, column: str | None, tmp_path: Path) -> None:
    made = write_data_set(tmp_path / "set", format=format, masked=False)
    value = Settings(corpus=("a.txt",), out="out").recipe("train:100") | made.settings
    (tmp_path / "set" / "README.md").write_bytes(make_card(Manifest(value, {}, MANY, made.splits, LEDGER, {}, 1)))
    train, held_out = (load(tmp_path / "set", tmp_path / "cache", name) for name in ("default", "eval"))
    (first, *_), (other, *_) = train["train"], held_out["eval"]
    columns = [set(row[column] if column else row) for row in (first, other)]
    assert "masked_labels" in columns[1] - columns[0] and "input_ids" in columns[0]
    assert list(train) == ["train"] and list(held_out) == ["eval"]


def test_the_command_gives_the_settings_back() -> None:
    settings = {"document": "file", "eval_fraction": 0.05, "copies": 3, "cased": True, "text_field": "my text"}
    parts = shlex.split(command(manifest(**settings)))
    assert parts[:3] == ["python", "-m", "prep"]
    parsed = from_arguments(vars(make_parser().parse_args(parts[3:])))
    assert parsed.corpus == ("a.txt",) and parsed.tokenizer == "train:8192"
    assert {name: getattr(parsed, name) for name in settings} == settings
    assert "--max-seq-len" not in parts


def test_a_given_tokenizer_is_the_one_that_is_saved() -> None:
    assert command(manifest(tokenizer="0" * 64)).endswith("--tokenizer tokenizer")


def test_what_follows_from_other_settings_is_not_said() -> None:
    made = Settings(("a.txt",), "out", pairing="sop", corpus_weight=(2.0,)).recipe("train:8192")
    said = command(manifest(**made))
    assert said.startswith("python -m prep build --corpus CORPUS-1 --out OUT --")
    assert sorted(said.split(" --")[3:]) == ["corpus-weight 2.0", "pairing sop", "tokenizer train:8192"]


def test_a_card_names_the_task_of_the_pairs() -> None:
    cards = {pairing: make_card(manifest(pairing=pairing)).decode() for pairing in get_args(Pairing)}
    tags = {pairing: [tag for tag in front_matter(card)["tags"] if "sentence" in tag] for pairing, card in cards.items()}
    assert tags["nsp"] == tags["paragraph"] == ["next-sentence-prediction"]
    assert tags["sop"] == ["sentence-order-prediction"] and tags["none"] == []
    assert "they are swapped" in cards["sop"] and "`next_sentence_label`" not in cards["none"]


def test_names_of_files_are_text() -> None:
    name = "a`b |\x1b[31m\n```\n# c.txt"
    bad = manifest()
    card = make_card(Manifest(bad.settings, {}, {**bad.inputs, "listed": [{"name": name, "bytes": 5}]}, SPLITS, LEDGER, {}, 1))
    assert "\x1b" not in card.decode() and "\n# c.txt" not in card.decode()
    assert card.decode().count("\n```") == 4  # the fences of two blocks of code


def test_a_language_that_yaml_takes_for_something_else_stays_a_text() -> None:
    assert front_matter(make_card(manifest(language="no")).decode())["language"] == ["no"]
    assert front_matter(make_card(manifest(language="pt-BR")).decode())["language"] == ["pt"]
