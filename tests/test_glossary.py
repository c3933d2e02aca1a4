"""One word for one thing: the words of the glossary are in use, and those that they replaced are not."""

import re
from pathlib import Path

import pytest
from commands import ROOT

GLOSSARY = ROOT / "docs" / "glossary.md"
SOURCES = [path for package in ("prep", "shards", "train") for path in sorted((ROOT / package).rglob("*.py"))]
PAGES = [ROOT / "README.md", ROOT / "shards" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WORDS = re.findall(r"^\| ([^|]+?) \| (?!meaning)[^-]", GLOSSARY.read_text(encoding="utf8"), re.MULTILINE)
# Names that stood for several things, or for what has another word now.
REPLACED = (
    "ShareTask",
    "ShareRecord",
    "build_share",
    "TaskShard",
    "task_shard.py",
    "num_shares",
    "cache.Counts",
    "train.schedule",
)


def letters(text: str) -> str:
    """Without what code, prose and flags write differently: `--row-log`, row_log, RowLog, row logs."""
    return re.sub(r"[^a-z0-9/]", "", text.lower())


def test_the_glossary_has_words() -> None:
    assert 25 <= len(WORDS) == len(set(WORDS)) <= 60


def test_its_words_are_used_in_the_code() -> None:
    code = "\n".join(letters(path.read_text(encoding="utf8")) for path in SOURCES)
    assert not [word for word in WORDS if letters(word.removesuffix(" I/N")) not in code]


@pytest.mark.parametrize("path", [*SOURCES, *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_replaced_word_is_left(path: Path) -> None:
    text = path.read_text(encoding="utf8")
    assert not [word for word in REPLACED if word in text]
