"""The tokenizer of a build: loaded from a file, a folder or the hub, checked, and saved beside the shards."""

import hashlib
import io
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from prep.tokens.special_tokens import NAMES, find_roles, find_words, make_templates, says_blanks
from shards import storage
from shards.dataset import WORDS_NAME
from shards.errors import UserError
from shards.manifest import TOKENIZER_FOLDER
from shards.schema import column_dtypes
from shards.template import Template

TOKENIZERS = f"tokenizers {tokenizers.__version__}"
SPECIAL_TOKENS = {role: names[0] for role, names in NAMES.items()}
"""Of the vocabularies that are made here: BERT's."""
_FILE, _CONFIG = "tokenizer.json", "tokenizer_config.json"
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class PreparedTokenizer:
    """A tokenizer that neither truncates nor pads, as the text of its tokenizer.json, with what the pipeline asks of it."""

    json_text: str
    roles: Mapping[str, str]

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

    @property
    def identity(self) -> str:
        """What tells it from any other: its fingerprint, and what its special tokens are for where that is not as in BERT."""
        if all(token == SPECIAL_TOKENS[role] for role, token in self.roles.items()):
            return self.fingerprint
        return hashlib.sha256(json.dumps([self.fingerprint, sorted(self.roles.items())]).encode()).hexdigest()

    @cached_property
    def vocab(self) -> dict[str, int]:
        """Token -> id, added tokens included."""
        return self.reference.get_vocab(with_added_tokens=True)

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return max(self.vocab.values()) + 1

    @cached_property
    def model(self) -> str:
        """WordPiece, BPE, Unigram or WordLevel."""
        return str(json.loads(self.json_text)["model"].get("type", "WordPiece"))

    @cached_property
    def special_ids(self) -> dict[str, int]:
        """Those with a role by it, and any other special token by its own string."""
        roles = {role: self.vocab[token] for role, token in self.roles.items()}
        others = {
            token.content: number
            for number, token in sorted(self.reference.get_added_tokens_decoder().items())
            if token.special and number not in roles.values()
        }
        return roles | others

    @cached_property
    def templates(self) -> dict[str, Template]:
        """`single`, and `pair` where it has one."""
        return make_templates(self.reference)

    @cached_property
    def word_flags(self) -> npt.NDArray[np.uint8] | None:
        """[vocab_size] which ids start or end a word (`shards.mask_units`); None where its tokens do not show it."""
        return find_words(self.reference)

    @cached_property
    def says_blanks(self) -> bool:
        """Whether sentences behind others must be encoded with the blank before them."""
        return says_blanks(self.reference)

    def describe(self) -> dict[str, Any]:
        """What the manifest says of it."""
        return {
            "fingerprint": self.fingerprint,
            "folder": TOKENIZER_FOLDER,
            "files": {name: hashlib.sha256(data).hexdigest() for name, data in self.files().items()},
            "model": self.model,
            "vocab_size": self.vocab_size,
            "id_type": column_dtypes(self.vocab_size)["input_ids"].name,
            "special_ids": self.special_ids,
            "templates": {name: template.to_json() for name, template in self.templates.items()},
        }

    def files(self) -> dict[str, bytes]:
        """Name -> content of the files that transformers' AutoTokenizer and other loaders want, tokenizer.json last."""
        config: dict[str, Any] = {
            "tokenizer_class": "BertTokenizer" if self.model == "WordPiece" else "PreTrainedTokenizerFast",
            "model_max_length": 512,
            **{f"{role}_token": token for role, token in self.roles.items()},
        }
        files = {}
        if self.model == "WordPiece":
            config["do_lower_case"] = bool((json.loads(self.json_text).get("normalizer") or {}).get("lowercase", False))
            by_id = sorted(self.vocab, key=self.vocab.__getitem__)
            files["vocab.txt"] = "".join(f"{token}\n" for token in by_id).encode()
        if self.word_flags is not None:
            table = io.BytesIO()
            np.save(table, self.word_flags, allow_pickle=False)
            files[WORDS_NAME] = table.getvalue()
        return files | {_CONFIG: json.dumps(config, indent=1).encode(), _FILE: self.json_text.encode()}

    def save(self, folder: str) -> None:
        """Writes the files into `folder`; the last one says that all are there."""
        for name, data in self.files().items():
            storage.publish(storage.join(folder, name), data)


def is_saved(folder: str) -> bool:
    """Whether a tokenizer was saved there."""
    return storage.find(storage.join(folder, _FILE)) is not None


def load_prepared(folder: str) -> PreparedTokenizer:
    """The tokenizer that an earlier step saved. Raises UserError when it is damaged."""
    url = storage.join(folder, _FILE)
    try:
        text = storage.read_bytes(url).decode()
        config = json.loads(storage.read_bytes(storage.join(folder, _CONFIG)))
        prepared = PreparedTokenizer(text, {role: config[f"{role}_token"] for role in NAMES if f"{role}_token" in config})
        _ = prepared.special_ids
    except UserError:
        raise
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"{url}: damaged ({error}); remove it and build again") from error
    return prepared


def prepare(tokenizer: Tokenizer, told: Mapping[str, Any], name: str) -> PreparedTokenizer:
    """Checks that it has what is needed; `told` is its tokenizer_config.json. Raises UserError that names what it lacks."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    last = max(vocab.values(), default=-1)
    if last + 1 != len(vocab):
        raise UserError(f"--tokenizer {name}: has {len(vocab)} entries and ids up to {last}; ids must have no gaps")
    try:
        roles = find_roles(tokenizer, told, name)
    except UserError:
        raise
    except Exception as error:  # the library raises bare Exception
        raise UserError(
            f"--tokenizer {name}: cannot encode a text ({error}); give it an unknown token, or use another"
        ) from error
    tokenizer.add_special_tokens(list(roles.values()))  # marks those that are there; adds no id
    text = json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, indent=1)
    return PreparedTokenizer(text, roles)


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
        return prepare(_from_file(name, cased), _config(_beside(name)), name)
    for file in (_FILE, "vocab.txt"):
        if storage.find(storage.join(name, file)):
            told = _config(name)
            return prepare(_from_file(storage.join(name, file), cased or told.get("do_lower_case") is False), told, name)
    if storage.list_files(name):
        raise UserError(f"--tokenizer {name}: the folder has neither {_FILE} nor vocab.txt")
    if not _HUB_NAME.fullmatch(name) or name.endswith((".json", ".txt")):
        raise UserError(f"--tokenizer {name}: no such file or folder, and no name on the hub")
    return prepare(*_from_hub(name), name)


def _beside(url: str) -> str:
    return url.rpartition("/")[0] or "."


def _config(folder: str) -> dict[str, Any]:
    """What the folder's tokenizer_config.json says; nothing where there is none."""
    url = storage.join(folder, _CONFIG)
    try:
        told = json.loads(storage.read_bytes(url)) if storage.find(url) else {}
    except ValueError as error:
        raise UserError(f"{url}: not JSON: {error}") from error
    if not isinstance(told, dict):
        raise UserError(f"{url}: a {type(told).__name__}, not an object of fields; mend or remove it")
    return told


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


def _from_hub(name: str) -> tuple[Tokenizer, dict[str, Any]]:
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # it says each of its retries twice; read when it is imported
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        tokenizer = Tokenizer.from_pretrained(name)
        try:
            told = _config(_beside(hf_hub_download(name, _CONFIG)))
        except EntryNotFoundError:
            told = {}
    except UserError:
        raise
    except Exception as error:  # the library raises bare Exception
        remedy = "check the name and the network; without one, give --tokenizer a folder, a tokenizer.json or a vocab.txt"
        raise UserError(f"--tokenizer {name}: cannot be had from the hub ({type(error).__name__}); {remedy}") from error
    return tokenizer, told
