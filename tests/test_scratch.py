import subprocess
from pathlib import Path

import pytest
from commands import run_prep
from conftest import BuildRunner

from prep.tokens import scratch
from shards.errors import UserError
from shards.storage import disk

KEY = "0123456789abcdef" * 2


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_clean_removes_what_builds_keep_and_nothing_else(corpus: Path, build: BuildRunner, tmp_path: Path) -> None:
    folder = tmp_path / "scratch"
    files = (
        "notes.txt",
        "tokens-mine/unit-1.json",
        "models/tokenizer-bert.json",
        f"tokens-{KEY}/precious",
        f"tokens-{KEY}.json",
    )
    files += (f"somebody/.b.tmp-{disk._boot()}-0",)
    for name in ("somebody/empty", f"somebody/tokens-{KEY}", f"tokens-{KEY}/mine"):
        (folder / name).mkdir(parents=True)
    for name in files:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    before = tree(folder)
    build(corpus)
    assert run_prep("clean", "--scratch", folder).stdout.startswith("removed ")
    assert tree(folder) == before
    with pytest.raises(UserError, match="holds nothing of a build"):
        scratch.clean(str(folder))


def test_a_repository_that_holds_a_token_store_stays_whole(tmp_path: Path) -> None:
    """Its folders of packed references are empty, and git needs them."""
    git = ["git", "-c", "user.email=a@example.org", "-c", "user.name=a", "-C", str(tmp_path)]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "x"], ["pack-refs", "--all"]):
        subprocess.run([*git, *words], check=True)
    before = tree(tmp_path)
    (tmp_path / f"tokens-{KEY}").mkdir()
    (tmp_path / f"tokens-{KEY}" / f"{KEY}.json").touch()
    assert scratch.clean(str(tmp_path)) == f"removed 1 files, 0 bytes, from {tmp_path}"
    assert tree(tmp_path) == before
    subprocess.run([*git, "status"], check=True, capture_output=True)


def test_clean_is_refused_while_a_build_works_there(tmp_path: Path) -> None:
    unit = tmp_path / f"tokens-{KEY}" / f"{KEY}.json"
    unit.parent.mkdir()
    unit.touch()
    with (
        scratch.in_use(str(tmp_path)),
        scratch.in_use(str(tmp_path)),
        pytest.raises(UserError, match="another build is at work"),
    ):
        scratch.clean(str(tmp_path))
    assert unit.exists()
    scratch.clean(str(tmp_path))
    assert not tmp_path.exists()


def test_tokens_of_an_earlier_release_are_cleaned(tmp_path: Path) -> None:
    old = [tmp_path / f"tokens-{KEY}" / name for name in ("unit-000000.json", "unit-000000-0000.tokens")]
    old[0].parent.mkdir()
    for path in old:
        path.touch()
    scratch.clean(str(tmp_path))
    assert not tmp_path.exists()


def test_a_build_removes_what_a_dead_one_left_half_written_and_no_more(tmp_path: Path) -> None:
    ours = tmp_path / f"tokens-{KEY}" / f".{KEY}.json.tmp-{disk._boot()}-0"
    others = [tmp_path / f".mine.tmp-{disk._boot()}-0", tmp_path / f"tokens-{KEY}" / f".mine.tmp-{disk._boot()}-0"]
    for path in (ours, *others):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    with scratch.in_use(str(tmp_path)):
        assert not ours.exists() and all(path.exists() for path in others)
