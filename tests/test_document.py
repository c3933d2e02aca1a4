"""`--pairing document`: the ids of a text as it is, to the last blank and line end, cut into pieces."""

import json
import tarfile
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_lines import lines_of, run_line
from commands import ROOT, manifest_of, run_prep
from conftest import BuildRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pairing_corpora import Corpus, corpora, docs_of, flatten, key_below
from test_build import read_rows
from token_stores import stored_documents
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers_of_all_kinds import KINDS
from transformers import PreTrainedTokenizerFast

from prep.corpus.documents import Document, InputFile, Rule, Span
from prep.corpus.files import Corpus as Inputs
from prep.corpus.files import list_inputs
from prep.corpus.read import read_documents
from prep.pairing.document import cut_documents
from prep.plan import Unit
from prep.settings import Settings, Splitting
from prep.tokens import long_texts
from prep.tokens.encoder import Encoder
from prep.tokens.fast import REFERENCE, installed_engine
from prep.tokens.store import Documents, Places
from prep.tokens.task import TokenizeTask
from prep.tokens.tokenize import tokenize_unit
from prep.tokens.tokenizer import PreparedTokenizer, prepare
from shards.errors import UserError
from shards.masking import unmask_rows
from shards.template import Template

# Pieces


@settings(deadline=None, max_examples=100)
@given(corpora(), st.integers(1, 30), st.integers(0, 29))
def test_pieces_join_to_the_documents(corpus: Corpus, max_tokens: int, overlap: int) -> None:
    overlap %= max_tokens
    docs = docs_of(corpus)
    sequences, tally = cut_documents(docs, max_tokens, overlap)
    pieces = [docs.ids[start : start + length].tolist() for start, length in zip(*sequences[:2], strict=True)]
    expected, keys = [], []
    for number in corpus.order:
        text = flatten(corpus.documents[number])
        starts = [0]
        while starts[-1] + max_tokens < len(text):
            starts.append(starts[-1] + max_tokens - overlap)
        expected += [text[start : start + max_tokens] for start in starts]
        keys += [key_below(corpus.keys[number], 2 + piece) for piece in range(len(starts))]
    assert pieces == expected and sequences.keys.tolist() == keys
    made = sum(len(flatten(document)) for document in corpus.documents)
    assert (tally.made, tally.placed, tally.repeated) == (made, made, sum(map(len, pieces)) - made)
    assert overlap or tally.repeated == 0
    assert sequences.labels is None and not sequences.b_lengths.any()


# Texts


def wordpiece(texts: list[str]) -> Tokenizer:
    """BERT's, with a small vocabulary."""
    letters = sorted({character for text in texts for character in text.lower() if character.isalnum()})
    words = ["the", "of", "##s", "##ing", "and", "great", *letters, *(f"##{letter}" for letter in letters), *".,;:!?-'\"<>/[]"]
    vocab = {
        token: number for number, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(words)])
    }
    made = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return made


def letters(texts: list[str]) -> Tokenizer:
    """A token for each character of a protein, and no word."""
    vocab = {
        token: number for number, token in enumerate(["<cls>", "<pad>", "<eos>", "<unk>", "<mask>", *"ACDEFGHIKLMNPQRSTVWY"])
    }
    made = Tokenizer(models.BPE(vocab, [], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.decoder = decoders.Fuse()
    made.post_processor = processors.TemplateProcessing(single="<cls> $A <eos>", special_tokens=[("<cls>", 0), ("<eos>", 2)])
    return made


MAKERS: dict[str, Callable[[list[str]], Tokenizer]] = {**KINDS, "wordpiece": wordpiece, "letters": letters}  # type: ignore[dict-item]


@pytest.fixture(scope="session")
def tokenizers(paragraphs: list[str]) -> dict[str, PreparedTokenizer]:
    config = {
        "openai": {"pad_token": "<nothing>", "mask_token": "<hidden>", "cls_token": "<start>", "sep_token": "<end>"},
        "letters": {"cls_token": "<cls>", "sep_token": "<eos>"},
    }
    return {name: prepare(make(paragraphs[:800]), config.get(name, {}), name) for name, make in MAKERS.items()}


ODD = (
    "\r\n",
    "\r",
    "\n\n",
    "\t",
    "  ",
    " ",
    "\n",
    "[MASK]",
    "<mask>",
    "<s>",
    "</s>",
    "<pad>",
    "[SEP]",
    "\u00a0",
    "\u3000",
    "\u2028",
)
CONTROLS = (
    "\x07",
    "\x1b[0m",
    "\u200b",
    "\u200d",
    "\ufeff",
    "\x85",
    "e\u0301",
    "\u01c5",
    "\u0130",
    "\ufffd",
    "\U0001f469\u200d\U0001f680",
    "\u4e2d\u6587",
)
WORDS = (
    "the",
    "Great",
    "nation",
    "of",
    "I",
    "1861",
    "x",
    "don't",
    "re-elect",
    "\u00e9t\u00e9",
    ".",
    "ACGT",
    "\u0417\u0430\u0440\u044f",
    "MKV",
)
pieces_of_text = st.one_of(
    st.sampled_from(WORDS),
    st.sampled_from(WORDS),
    st.sampled_from(ODD),
    st.sampled_from(CONTROLS),
    st.just(" "),
    st.text(max_size=3),
)
texts = st.lists(pieces_of_text, max_size=60).map("".join).filter(lambda text: text.isprintable() or "\0" not in text)


def documents_of(task: TokenizeTask) -> Documents:
    record = tokenize_unit(task)
    documents = stored_documents(Path(task.store), [(task.key, record.index_bits, record.stored_bytes)])
    return documents.take(np.argsort(documents.keys))


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("part_chars", [long_texts.PART_CHARS, 12])
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(documents=st.lists(texts, min_size=1, max_size=6))
def test_ids_are_those_of_the_tokenizer(
    kind: str, part_chars: int, documents: list[str], tokenizers: dict[str, PreparedTokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For whole texts, and for such as are so long that they are encoded in parts."""
    monkeypatch.setattr(long_texts, "PART_CHARS", part_chars)
    prepared = tokenizers[kind]
    reference = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(prepared.json_text))
    for engine in {REFERENCE, installed_engine(prepared.definition)}:
        encoder = Encoder(prepared, engine)
        parts = [encoder.parts_of(text) for text in documents]
        ids, lengths = encoder.encode([part for text in parts for part in text])
        edges = np.cumsum([0, *lengths])[np.cumsum([0, *map(len, parts)])]
        for text, start, end in zip(documents, edges, edges[1:], strict=False):
            expected = reference(text, split_special_tokens=True, add_special_tokens=False).input_ids
            assert ids[start:end].tolist() == without_special(prepared, expected), text


def without_special(tokenizer: PreparedTokenizer, ids: list[int]) -> list[int]:
    """A model may spell out the name of a special token as that token; a document then has the unknown token there."""
    special, unknown = set(tokenizer.special_ids.values()), tokenizer.special_ids.get("unk")
    replaced = [unknown if number in special else number for number in ids]
    return [number for number in replaced if number is not None]


def test_long_texts_are_cut_where_the_tokenizer_allows(tokenizers: dict[str, PreparedTokenizer]) -> None:
    """The property above would hold without any cut, too."""
    cuts = {name: tokenizer.cuts for name, tokenizer in tokenizers.items()}
    assert cuts["roberta"] == cuts["openai"] == cuts["wordpiece"] == {" ": "before", "\n": "before"}
    assert cuts["albert"] == {" ": "before"} and cuts["letters"] == {" ": "before", "\n": "before"}
    assert cuts["llama"] == {}, "its words were never kept apart, so its tokens cross blanks"
    text = "the nation\nof " * 100_000
    parts = long_texts.cut_text(text, cuts["roberta"])
    assert len(parts) == 2 and "".join(parts) == text and len(parts[0]) < long_texts.PART_CHARS + 20
    assert long_texts.cut_text(text, {}) == [text]


def test_a_tokenizer_that_adds_a_blank_is_cut_without_one() -> None:
    made = Tokenizer(
        models.BPE(
            {"\u2581": 0, "a": 1, "b": 2, "\u2581a": 3, "<unk>": 4, "<mask>": 5, "<pad>": 6},
            [("\u2581", "a")],
            unk_token="<unk>",
        )
    )
    made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    assert long_texts.find_cuts(made) == {" ": "drop"}
    made.add_tokens(["a b"])
    assert long_texts.find_cuts(made) == {}, "an added token crosses blanks"


# Inputs


@pytest.mark.parametrize(
    ("document", "data", "expected"),
    [
        ("file", b"\xef\xbb\xbf A\r\nb\rc \n\n", [" A\r\nb\rc \n\n"]),
        ("line", b" a \r\nb\tc\rd\n\n  \n e", [" a ", "b\tc", "d", " e"]),
        ("blank-line", b" a\r\n b\rc\n \n\nd\n", [" a\r\n b\rc", "d"]),
    ],
)
def test_plain_text_stays_as_it_is(document: str, data: bytes, expected: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    assert texts_of(tmp_path, Rule(document, "text", is_exact=True)) == expected


def test_fields_and_members_stay_as_they_are(tmp_path: Path) -> None:
    text = " \r\n A\rb\t\u00e9\u0301\n\n"
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text}) + "\n")
    pq.write_table(pa.table({"text": [text]}), tmp_path / "b.parquet")
    with tarfile.open(tmp_path / "c.tar", "w") as tar:
        info = tarfile.TarInfo("x.txt")
        info.size = len(text.encode())
        tar.addfile(info, BytesIO(text.encode()))
    assert texts_of(tmp_path, Rule("line", "text", is_exact=True)) == [text] * 3


def texts_of(folder: Path, rule: Rule) -> list[str]:
    items = [item for file in list_inputs(Inputs([str(folder)])) for item in read_documents(Span(file), rule)]
    return [item.text for item in items if isinstance(item, Document)]


def test_a_document_of_blanks_is_a_document(tmp_path: Path, tokenizers: dict[str, PreparedTokenizer]) -> None:
    """To a tokenizer that knows them; an empty one is none."""
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in (" \n\n", "", "x")))
    tokenizers["roberta"].save(str(tmp_path / "tokenizer"))
    file = InputFile(path.name, str(path), path.stat().st_size, "", "jsonl", "")
    task = TokenizeTask(
        unit=Unit(0, (Span(file),), file.bytes),
        key="0" * 32,
        rule=Rule("line", "text", is_exact=True),
        splitting=Splitting("whole", ""),
        on_error="skip",
        tokenizer_url=str(tmp_path / "tokenizer"),
        engine=installed_engine(tokenizers["roberta"].definition),
        store=str(tmp_path / "store"),
        places=Places.make(0.0),
        weights=(),
        by_content=False,
    )
    documents = documents_of(task)
    reference = tokenizers["roberta"].reference
    assert sorted(documents.document_lengths()) == sorted(
        len(reference.encode(text, add_special_tokens=False)) for text in (" \n\n", "x")
    )
    assert documents.num_sentences.tolist() == [1, 1]


# A build


def test_the_pieces_of_a_build_are_the_documents(
    build: BuildRunner, tmp_path: Path, tokenizers: dict[str, PreparedTokenizer], paragraphs: list[str]
) -> None:
    contents = [f"  {a}\r\n\r\n\t{b}\n" for a, b in zip(paragraphs[:60], paragraphs[60:120], strict=True)]
    (tmp_path / "corpus").mkdir()
    for number, content in enumerate(contents):
        (tmp_path / "corpus" / f"{number:03}.txt").write_bytes(content.encode())
    tokenizers["roberta"].save(str(tmp_path / "roberta"))
    arguments = ("--document", "file", "--pairing", "document", "--tokenizer", tmp_path / "roberta", "--mask-unit", "word")
    outs = [
        build(tmp_path / "corpus", *arguments, "--max-seq-len", 64, "--document-overlap", overlap, name=f"out-{overlap}")
        for overlap in (0, 9)
    ]
    for out, overlap in zip(outs, (0, 9), strict=True):
        assert run_prep("verify", out).stdout.endswith("nothing wrong\n")
        tokenizer = PreTrainedTokenizerFast.from_pretrained(out / "tokenizer")
        expected: Counter[Any] = Counter()
        for content in contents:
            ids = tokenizer(content, split_special_tokens=True, add_special_tokens=False).input_ids
            starts = [0, *range(62 - overlap, max(1, len(ids) - overlap), 62 - overlap)]
            expected.update(tuple(ids[start : start + 62]) for start in starts)
        assert pieces_in(out) == expected
        ledger = manifest_of(out)["ledger"]
        repeated = sum(ledger["pairs"][split]["repeated"] for split in ("train", "eval"))
        assert (repeated > 0) == (overlap > 0)
    assert len(list((tmp_path / "scratch").glob("tokens-*"))) == 1, "another overlap uses the same tokens"
    report = run_prep("report", outs[1]).stdout
    assert "overlap" in report and "sentences" not in report


def pieces_in(out: Path) -> Counter[Any]:
    template = Template.of(manifest_of(out)["tokenizer"], paired=False)
    pieces: Counter[Any] = Counter()
    for split in ("train", "eval"):
        for rows in map(unmask_rows, read_rows(out, split)):
            edges = rows.sequence_starts()
            for start, end in pairwise(edges):
                ids = rows.input_ids[start:end].tolist()
                assert (
                    tuple(ids[: len(template.prefix)]) == template.prefix
                    and tuple(ids[-len(template.suffix) :]) == template.suffix
                )
                pieces[tuple(ids[len(template.prefix) : -len(template.suffix)])] += 1
    return pieces


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"document_overlap": 5, "pairing": "none"}, "--document-overlap needs --pairing document"),
        ({"document_overlap": 128}, "--document-overlap is 128, must be below --max-seq-len"),
        ({"sentences": "line"}, "--sentences line has no effect with --pairing document"),
        ({"short_seq_prob": 0.1}, "--short-seq-prob has no effect with --pairing document"),
        ({"cross_documents": True}, "--cross-documents needs --pairing none"),
    ],
)
def test_settings_that_have_no_effect_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Settings(("a",), "out", **{"pairing": "document", **values})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--mask-unit", "word"), "its tokens do not show where words begin"),
        (("--max-seq-len", 64, "--document-overlap", 62), "the 2 special tokens of --tokenizer"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_one_line(
    arguments: tuple[object, ...], message: str, tmp_path: Path, tokenizers: dict[str, PreparedTokenizer]
) -> None:
    tokenizers["letters"].save(str(tmp_path / "letters"))
    (tmp_path / "a.txt").write_text("MKV\n" * 20)
    places = ("--corpus", tmp_path / "a.txt", "--out", tmp_path / "out", "--tokenizer", tmp_path / "letters")
    done = run_prep("plan", *places, "--pairing", "document", *arguments)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_the_page_makes_a_tokenizer_of_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proteins, one per line: each letter is a token."""
    page = ROOT / "docs" / "recipes.md"
    code = "\n".join(lines_of(page, "python"))
    (line,) = [line for line in lines_of(page, "sh") if "proteins" in line]
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    proteins = ["MKV" * length + "ACDE" for length in range(1, 80)]
    (tmp_path / "proteins.txt").write_text("\n".join(proteins))
    run_line(f"{line} --max-seq-len 64", tmp_path)
    letters = Tokenizer.from_file("proteins.json")
    rebuilt: Counter[Any] = Counter()
    for text in proteins:
        ids = letters.encode(text, add_special_tokens=False).ids
        assert len(ids) == len(text)
        rebuilt.update(tuple(ids[start : start + 62]) for start in range(0, len(ids), 62))
    assert pieces_in(tmp_path / "data" / "proteins") == rebuilt
    assert run_prep("show", tmp_path / "data" / "proteins", "-n", 1).returncode == 0


# Long rows


@pytest.mark.parametrize(("capacity", "max_seq_len"), [(8_192, 8_192), (65_535, 65_535), (65_535, 64)])
def test_long_rows(
    capacity: int, max_seq_len: int, build: BuildRunner, tmp_path: Path, tokenizers: dict[str, PreparedTokenizer]
) -> None:
    """Lengths and positions are uint16, and a row of the full length uses all of it."""
    words = ["the", "nation", "of", "states", "1861,", "\n", "great"]
    rng = np.random.default_rng(5)
    contents = [" ".join(rng.choice(words, size)) for size in (70_000, 9_000, 70, 5, 3)]
    for number, content in enumerate(contents):
        (tmp_path / "corpus").mkdir(exist_ok=True)
        (tmp_path / "corpus" / f"{number:03}.txt").write_bytes(content.encode())
    tokenizers["roberta"].save(str(tmp_path / "roberta"))
    arguments = ("--document", "file", "--pairing", "document", "--tokenizer", tmp_path / "roberta")
    lengths = ("--max-seq-len", max_seq_len, "--pack-to", capacity, "--eval-fraction", 0)
    out = build(tmp_path / "corpus", *arguments, *lengths)
    assert run_prep("verify", out).stdout.endswith("nothing wrong\n")
    train = manifest_of(out)["splits"]["train"]
    assert train["max_sequence_tokens"] == max_seq_len and train["max_row_tokens"] > 0.9 * capacity
    expected: Counter[Any] = Counter()
    for content in contents:
        ids = tokenizers["roberta"].reference.encode(content, add_special_tokens=False).ids
        expected.update(tuple(ids[start : start + max_seq_len - 2]) for start in range(0, len(ids), max_seq_len - 2))
    assert pieces_in(out) == expected
    for command in ("report", "show"):
        assert run_prep(command, out, *(("-n", 1) if command == "show" else ())).returncode == 0
