"""The tokenizer of a build: loaded from a file, a folder or the hub, checked, and saved beside the shards."""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import tokenizers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from shards import storage
from shards.errors import UserError
from shards.manifest import TOKENIZER_FOLDER
from shards.schema import column_dtypes

TOKENIZERS = f"tokenizers {tokenizers.__version__}"
SPECIAL_TOKENS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class PreparedTokenizer:
    """A tokenizer that neither truncates nor pads, as the text of its tokenizer.json, with what the pipeline asks of it."""

    json_text: str

    @cached_property
    def reference(self) -> Tokenizer:
        """The reference implementation; the strings of special tokens in a text are text to it."""
        tokenizer = Tokenizer.from_str(self.json_text)
        tokenizer.encode_special_tokens = True
        return tokenizer

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of tokenizer.json."""
        return hashlib.sha256(self.json_text.encode()).hexdigest()

    @cached_property
    def vocab(self) -> dict[str, int]:
        """Token -> id, added tokens included."""
        return self.reference.get_vocab(with_added_tokens=True)

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return max(self.vocab.values()) + 1

    @cached_property
    def special_ids(self) -> dict[str, int]:
        """The five by their roles, and any other special token by its own string."""
        roles = {role: self.vocab[token] for role, token in SPECIAL_TOKENS.items()}
        others = {
            token.content: number
            for number, token in sorted(self.reference.get_added_tokens_decoder().items())
            if token.special and number not in roles.values()
        }
        return roles | others

    def describe(self) -> dict[str, Any]:
        """What the manifest says of it."""
        return {
            "fingerprint": self.fingerprint,
            "folder": TOKENIZER_FOLDER,
            "files": {name: hashlib.sha256(data).hexdigest() for name, data in self.files().items()},
            "model": json.loads(self.json_text)["model"].get("type", "WordPiece"),
            "vocab_size": self.vocab_size,
            "id_type": column_dtypes(self.vocab_size)["input_ids"].name,
            "special_ids": self.special_ids,
        }

    def files(self) -> dict[str, bytes]:
        """Name -> content of the files that transformers' AutoTokenizer and other loaders want."""
        config = {
            "tokenizer_class": "BertTokenizer",
            "model_max_length": 512,
            "do_lower_case": bool((json.loads(self.json_text).get("normalizer") or {}).get("lowercase", False)),
            **{f"{role}_token": token for role, token in SPECIAL_TOKENS.items()},
        }
        by_id = sorted(self.vocab, key=self.vocab.__getitem__)
        return {
            "tokenizer.json": self.json_text.encode(),
            "tokenizer_config.json": json.dumps(config, indent=1).encode(),
            "vocab.txt": "".join(f"{token}\n" for token in by_id).encode(),
        }

    def save(self, out: str) -> None:
        """Writes the files below `out`."""
        for name, data in self.files().items():
            storage.publish(storage.join(out, TOKENIZER_FOLDER, name), data)


def load_prepared(url: str) -> PreparedTokenizer:
    """The tokenizer.json that an earlier step wrote. Raises UserError when it is damaged."""
    try:
        prepared = PreparedTokenizer(storage.read_bytes(url).decode())
        _ = prepared.special_ids
    except UserError:
        raise
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"{url}: damaged ({error}); remove it and build again") from error
    return prepared


def prepare(tokenizer: Tokenizer, name: str) -> PreparedTokenizer:
    """Checks that it has the special tokens needed; raises UserError that names it and what it lacks."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    last = max(vocab.values(), default=-1)
    if last + 1 != len(vocab):
        raise UserError(f"--tokenizer {name}: has {len(vocab)} entries and ids up to {last}; ids must have no gaps")
    missing = [token for token in SPECIAL_TOKENS.values() if token not in vocab]
    if missing:
        raise UserError(f"--tokenizer {name}: has no {', '.join(missing)}; sentence pairs and masks need a BERT tokenizer")
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS.values()))  # marks those that are there; adds no id
    text = json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, indent=1)
    return PreparedTokenizer(text)


def wordpiece(vocab: dict[str, int], lowercase: bool) -> Tokenizer:
    """BERT's tokenizer over a vocabulary: its normalizer, its pre-tokenizer, and its template for pairs."""
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token=SPECIAL_TOKENS["unk"], max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    cls, sep = SPECIAL_TOKENS["cls"], SPECIAL_TOKENS["sep"]
    if cls in vocab and sep in vocab:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{cls} $A {sep}",
            pair=f"{cls} $A {sep} $B:1 {sep}:1",
            special_tokens=[(cls, vocab[cls]), (sep, vocab[sep])],
        )
    return tokenizer


def load_tokenizer(name: str, cased: bool) -> PreparedTokenizer:
    """A tokenizer from a tokenizer.json, a vocab.txt, a folder with either, or the hub. Raises UserError."""
    if storage.find(name):
        return prepare(_from_file(name, cased), name)
    for file in ("tokenizer.json", "vocab.txt"):
        if storage.find(storage.join(name, file)):
            return prepare(_from_file(storage.join(name, file), cased or _says_cased(name)), name)
    if storage.list_files(name):
        raise UserError(f"--tokenizer {name}: the folder has neither tokenizer.json nor vocab.txt")
    if not _HUB_NAME.fullmatch(name) or name.endswith((".json", ".txt")):
        raise UserError(f"--tokenizer {name}: no such file or folder, and no name on the hub")
    return prepare(_from_hub(name), name)


def _says_cased(folder: str) -> bool:
    config = storage.join(folder, "tokenizer_config.json")
    try:
        return storage.find(config) is not None and json.loads(storage.read_bytes(config)).get("do_lower_case") is False
    except ValueError as error:
        raise UserError(f"{config}: not JSON: {error}") from error


def _from_file(url: str, cased: bool) -> Tokenizer:
    data = storage.read_bytes(url)
    try:
        if not url.endswith(".txt"):
            return Tokenizer.from_str(data.decode())
        tokens = data.decode().split("\n")
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"--tokenizer {url}: not a tokenizer.json or vocab.txt that can be read: {error}") from error
    tokens = [token.rstrip("\r") for token in (tokens[:-1] if not tokens[-1] else tokens)]
    if len(set(tokens)) != len(tokens) or SPECIAL_TOKENS["unk"] not in tokens:
        raise UserError(f"--tokenizer {url}: not a vocabulary: it must have a token a line, none twice, [UNK] among them")
    return wordpiece({token: number for number, token in enumerate(tokens)}, lowercase=not cased)


def _from_hub(name: str) -> Tokenizer:
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # it says each of its retries twice; read when it is imported
    try:
        return Tokenizer.from_pretrained(name)
    except Exception as error:  # the library raises bare Exception
        remedy = "check the name and the network; without one, give --tokenizer a folder, a tokenizer.json or a vocab.txt"
        raise UserError(f"--tokenizer {name}: cannot be had from the hub ({type(error).__name__}); {remedy}") from error
