"""docs/models.md: its commands, as they stand but for fewer steps and smaller models; its tables against the code."""

import re
from pathlib import Path

import pytest
from command_lines import lines_of, run_line
from commands import ROOT
from corpora import speeches
from small_encoders import small_encoder
from tokenizers_of_all_kinds import roberta

from train.models.families import FAMILIES
from train.models.sizes import SIZES

PAGE = ROOT / "docs" / "models.md"
PRETRAINED, ESM = "answerdotai/ModernBERT-base", "facebook/esm2_t6_8M_UR50D"
AMINO_ACIDS = "LAGVSERTIDPKQNFYMHWCXBUZO.-"
SHORTER = (
    (r"--steps \d+", "--steps 1"),
    (r"train:\d+", "train:300"),
    (r"train-bpe:\d+", "train-bpe:300"),
    (r"(--max-seq-len|--pack-to) 1024", r"\1 256"),
    (r"--model base", "--model tiny"),
    (r"--model (roberta|albert|modernbert|esm2)-\w+", r"--model \1-tiny"),
    (r"--global-batch \d+", "--global-batch 2 --micro-batch 1"),
)


def shortened(line: str) -> str:
    for pattern, text in SHORTER:
        line = re.sub(pattern, text, line)
    if " build " in line and "--tokenizer" not in line:
        line += " --tokenizer train:300"
    return line


def write_corpora(folder: Path) -> None:
    """Parts of speeches, sources of this project, and sequences of four letters."""
    texts = [path.read_text(encoding="utf8")[:2000] for path in speeches()[::8]]
    for name, contents, extension in (
        ("texts", texts, "txt"),
        ("code", [path.read_text(encoding="utf8")[:2000] for path in sorted((ROOT / "shards").glob("**/*.py"))], "py"),
    ):
        (folder / name).mkdir()
        for number, text in enumerate(contents):
            (folder / name / f"{number}.{extension}").write_text(text, encoding="utf8")
    letters = "".join("ACGT"[ord(letter) % 4] for text in texts for letter in text)
    (folder / "dna.txt").write_text("\n".join(letters[start : start + 300] for start in range(0, 24_000, 300)))
    letters = "".join(AMINO_ACIDS[ord(letter) % 20] for text in texts for letter in text)
    (folder / "proteins.txt").write_text("\n".join(letters[start : start + 150] for start in range(0, 12_000, 150)))


def save_pretrained(folder: Path) -> None:
    """A small stand-in for the model of that name on the hub: weights, configuration and tokenizer."""
    tokenizer = roberta([path.read_text(encoding="utf8")[:2000] for path in speeches()[::8]])
    ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}
    encoder = small_encoder("modernbert", vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=8192, **ids)
    encoder.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))


def save_esm(folder: Path) -> None:
    """The same for ESM-2, whose tokenizer is a list of letters and code in transformers."""
    vocabulary = ["<cls>", "<pad>", "<eos>", "<unk>", *AMINO_ACIDS, "<null_1>", "<mask>"]
    ids = {"pad_token_id": 1, "mask_token_id": len(vocabulary) - 1}
    small_encoder("esm", vocab_size=len(vocabulary), max_position_embeddings=1026, **ids).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "EsmTokenizer", "model_max_length": 1024}')


def test_every_command_of_the_page_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_corpora(tmp_path)
    save_pretrained(tmp_path / PRETRAINED)
    save_esm(tmp_path / ESM)
    monkeypatch.chdir(tmp_path)
    first, second = "\n".join(lines_of(PAGE, "python")).split("from transformers import pipeline")
    exec(first, {})  # writes dna.json and esm2.json
    outputs = {line: run_line(shortened(line), tmp_path) for line in lines_of(PAGE, "sh")}
    names: dict[str, object] = {}
    exec("from transformers import pipeline" + second.replace("\nfill(", "\nbest = fill("), names)
    assert len(list(names["best"])) == 5  # type: ignore[call-overload]
    assert sum("pretrained" in text for text in outputs.values()) == 3, "BERT's second phase, ModernBERT and ESM-2"
    assert "kept from an earlier run" in next(text for line, text in outputs.items() if "--out data/512" in line)


def test_the_table_names_every_family_and_size() -> None:
    table = [line for line in PAGE.read_text(encoding="utf8").splitlines() if line.startswith("| `")][1:]
    cells = [[re.findall(r"`([^`]+)`", cell) for cell in line.split("|")[1:3]] for line in table]
    assert sorted(name for names, _ in cells for name in names) == sorted(FAMILIES)
    sizes = []
    for _, names in cells:
        prefix = names[0].rpartition("-")[0] if names and names[0] != "tiny" else ""
        sizes += [f"{prefix}{name}" if name.startswith("-") else name for name in names]
    short = {name for name in SIZES if not name.startswith("bert-")}
    assert set(sizes) - {"bert-base"} == short


def test_the_family_that_contributing_adds_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row and the line of switches that CONTRIBUTING.md shows, in the table and through the parity test."""
    import parity
    import small_encoders

    code = "\n".join(lines_of(ROOT / "CONTRIBUTING.md", "python"))
    rows: dict[str, dict[str, object]] = {"FAMILIES": {}, "SWITCHES": {}}
    names = {"Family": type(FAMILIES["bert"]), "_ROBERTA": small_encoders.SWITCHES["roberta"]}
    exec(code, names | rows)
    (model_type,) = rows["FAMILIES"]
    assert model_type not in FAMILIES
    monkeypatch.setitem(FAMILIES, model_type, rows["FAMILIES"][model_type])  # type: ignore[arg-type]
    monkeypatch.setitem(small_encoders.SWITCHES, model_type, rows["SWITCHES"][model_type])  # type: ignore[arg-type]
    parity.check(model_type)
