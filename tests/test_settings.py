import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from prep.settings import Settings, from_arguments
from shards.command.options import add_arguments
from shards.errors import UserError


def settings(**values: Any) -> Settings:
    return Settings(**{"corpus": ("a.txt",), "out": "out"} | values)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_seq_len", 7),
        ("max_seq_len", 70_000),
        ("short_seq_prob", 1.5),
        ("short_seq_prob", float("nan")),
        ("copies", 0),
        ("mask_prob", 0.0),
        ("mask_prob", 1.0),
        ("mask_prob", float("nan")),
        ("pack_to", 64),
        ("pack_to", -1),
        ("shard_bytes", 10),
        ("eval_fraction", 0.9),
        ("seed", -1),
        ("workers", -1),
        ("language", "english please"),
        ("language", ""),
        ("tokenizer", "train:12"),
        ("tokenizer", "train:many"),
        ("tokenizer", ""),
        ("masking", "sometimes"),
        ("format", "csv"),
        ("document", "chapter"),
        ("on_error", "ignore"),
        ("out", ""),
        ("text_field", ""),
        ("corpus", ()),
        ("seed", 1.5),
        ("seed", True),
        ("cased", "yes"),
    ],
)
def test_nonsense_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')}"):
        settings(**{name: value})


@pytest.mark.parametrize(("out", "scratch"), [("a", "a"), ("a/b", "a"), ("a", "a/b"), ("a/", "./a")])
def test_out_and_scratch_must_be_apart(out: str, scratch: str) -> None:
    with pytest.raises(UserError, match="must not contain each other"):
        settings(out=out, scratch=scratch)


def parse(*arguments: str) -> Settings:
    parser = argparse.ArgumentParser()
    add_arguments(parser, Settings, {})
    return from_arguments(vars(parser.parse_args(arguments)))


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('corpus = ["x.txt"]\nout = "o"\nseed = 3\nmax-seq-len = 64\nshard_bytes = "2MB"\nmask_prob = 0.2\n')
    found = parse("--config", str(config), "--seed", "9", "--cased")
    assert found == settings(corpus=("x.txt",), out="o", seed=9, max_seq_len=64, shard_bytes=2 << 20, mask_prob=0.2, cased=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("sead = 3", "unknown setting 'sead'"),
        ("seed = ", "not a TOML file"),
        ('seed = "3"', "--seed is '3'"),
        ('shard_bytes = "big"', "not a size"),
        ("corpus = 3", "--corpus"),
        ("corpus = [3]", "--corpus"),
        ("pack_to = 128.0", "--pack-to"),
    ],
)
def test_a_wrong_file_is_named(content: str, message: str, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text(content)
    with pytest.raises(UserError, match=message):
        parse("--config", str(config), "--out", "o", *(() if "corpus" in content else ("--corpus", "a")))


def test_every_setting_has_a_flag_and_help() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser, Settings, {})
    text = parser.format_help()
    for field in fields(Settings):
        assert f"--{field.name.replace('_', '-')}" in text and field.metadata["help"]


def test_no_place_reaches_the_recipe() -> None:
    here = settings(workers=1, scratch="s", tokenizer="tokenizers/a.json").recipe("fingerprint")
    there = settings(workers=9, scratch="t", out="elsewhere", corpus=("b",), tokenizer="b.json", tokenizer_engine="reference")
    assert here == there.recipe("fingerprint")
    assert here != settings(seed=1).recipe("fingerprint")
