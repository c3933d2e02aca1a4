"""The tokenizer of a build: checked, described in the manifest, and saved beside the shards."""

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from prep.tokens.long_texts import Cut, find_cuts
from prep.tokens.special_tokens import NAMES, find_roles, find_words, make_templates, needs_leading_space, typed_post_processor
from prep.tokens.tokenizer_config import DEFAULT_LIMIT, is_bert_tokenizer, kept_options, make_config
from shards import storage
from shards.dataset import WORDS_NAME
from shards.errors import UserError
from shards.manifest import TOKENIZER_FOLDER
from shards.schema import column_dtypes
from shards.template import Template
from shards.tokenizer_check import MAX_BYTES, lossy_features, read_definition

# Of all tokens: a tokenizer that fits its corpus leaves far fewer unknown.
MAX_UNKNOWN_SHARE = 0.01
TOKENIZERS = f"tokenizers {tokenizers.__version__}"
# BERT's, which the vocabularies made here have.
SPECIAL_TOKENS = {role: names[0] for role, names in NAMES.items()}
FILE_NAME, CONFIG_NAME, VOCAB_NAME = "tokenizer.json", "tokenizer_config.json", "vocab.txt"


@dataclass(frozen=True)
class PreparedTokenizer:
    """A tokenizer that neither truncates nor pads, as the text of its tokenizer.json, and what the pipeline needs of it."""

    json_text: str
    roles: Mapping[str, str]  # role -> token
    options: Mapping[str, Any] = field(default_factory=dict)  # fields of tokenizer_config.json that change no id

    @cached_property
    def reference(self) -> Tokenizer:
        """The reference implementation. Special tokens that a text spells out are text to it."""
        tokenizer = Tokenizer.from_str(self.json_text)
        tokenizer.encode_special_tokens = True
        return tokenizer

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of tokenizer.json."""
        return hashlib.sha256(self.json_text.encode()).hexdigest()

    @property
    def identity(self) -> str:
        """Differs between any two tokenizers: the fingerprint, and the roles of its tokens where they are not BERT's."""
        if all(token == SPECIAL_TOKENS[role] for role, token in self.roles.items()):
            return self.fingerprint
        return hashlib.sha256(json.dumps([self.fingerprint, sorted(self.roles.items())]).encode()).hexdigest()

    @cached_property
    def vocab(self) -> dict[str, int]:
        """Token -> id, added tokens included."""
        return self.reference.get_vocab(with_added_tokens=True)

    @property
    def vocab_size(self) -> int:
        """The largest id plus 1."""
        return max(self.vocab.values()) + 1

    @cached_property
    def unused_ids(self) -> list[tuple[int, int]]:
        """[first, end) of each run of ids below `vocab_size` that no token has."""
        ids = np.array(sorted({-1, *self.vocab.values()}))
        gaps = np.flatnonzero(np.diff(ids) > 1)
        return [(int(ids[i]) + 1, int(ids[i + 1])) for i in gaps]

    @cached_property
    def definition(self) -> dict[str, Any]:
        """The content of tokenizer.json."""
        definition: dict[str, Any] = json.loads(self.json_text)
        return definition

    @property
    def model(self) -> str:
        """WordPiece, BPE, Unigram or WordLevel."""
        return str(self.definition["model"].get("type", "WordPiece"))

    @cached_property
    def special_ids(self) -> dict[str, int]:
        """Role -> id, and the string -> id of any other special token."""
        roles = {role: self.vocab[token] for role, token in self.roles.items()}
        others = {
            token.content: number
            for number, token in sorted(self.reference.get_added_tokens_decoder().items())
            if token.special and number not in roles.values()
        }
        return roles | others

    @cached_property
    def templates(self) -> dict[str, Template]:
        """`single`, and `pair` if the tokenizer has one."""
        return make_templates(self.reference)

    @cached_property
    def word_flags(self) -> npt.NDArray[np.uint8] | None:
        """[vocab_size] which ids start or end a word (`shards.mask_units`); None if the tokens do not show it."""
        return find_words(self.definition, self.vocab)

    @cached_property
    def needs_leading_space(self) -> bool:
        """Whether a sentence after another one must be encoded with the space before it."""
        return needs_leading_space(self.reference)

    @cached_property
    def cuts(self) -> dict[str, Cut]:
        """Where a long text may be cut into parts that are encoded one by one (`prep.tokens.long_texts`)."""
        with library_errors("--tokenizer: cannot encode a text", "use another tokenizer"):
            return find_cuts(self.reference)

    def describe(self) -> dict[str, Any]:
        """The manifest's entry for the tokenizer."""
        return {
            "fingerprint": self.fingerprint,
            "folder": TOKENIZER_FOLDER,
            "files": {name: hashlib.sha256(data).hexdigest() for name, data in self.files.items()},
            "model": self.model,
            "vocab_size": self.vocab_size,
            "id_type": column_dtypes(self.vocab_size)["input_ids"].name,
            "special_ids": self.special_ids,
            "unused_ids": [list(run) for run in self.unused_ids],
            "templates": {name: template.to_json() for name, template in self.templates.items()},
        }

    @cached_property
    def files(self) -> dict[str, bytes]:
        """Name -> content of the files that transformers' AutoTokenizer and other loaders read, tokenizer.json last."""
        role_ids = {role: self.vocab[token] for role, token in self.roles.items()}
        is_bert = is_bert_tokenizer(self.definition, role_ids, self.templates, is_gapless=not self.unused_ids)
        files = {}
        if is_bert:
            by_id = sorted(self.vocab, key=self.vocab.__getitem__)
            files[VOCAB_NAME] = "".join(f"{token}\n" for token in by_id).encode()
        if self.word_flags is not None:
            table = io.BytesIO()
            np.save(table, self.word_flags, allow_pickle=False)
            files[WORDS_NAME] = table.getvalue()
        config = make_config(self.definition, self.roles, self.options, is_bert)
        return files | {CONFIG_NAME: json.dumps(config, indent=1).encode(), FILE_NAME: self.json_text.encode()}

    def for_length(self, num_tokens: int) -> "PreparedTokenizer":
        """The same tokenizer, whose saved limit (model_max_length) is at least this many tokens."""
        limit = self.options.get("model_max_length", DEFAULT_LIMIT)
        return self if num_tokens <= limit else replace(self, options={**self.options, "model_max_length": num_tokens})

    def save(self, folder: str) -> None:
        """Writes the files into `folder`. The last one marks the folder as complete."""
        for name, data in self.files.items():
            storage.publish(storage.join(folder, name), data)


def is_saved(folder: str) -> bool:
    """Whether `folder` holds a complete tokenizer."""
    return storage.find(storage.join(folder, FILE_NAME)) is not None


def load_prepared(folder: str) -> PreparedTokenizer:
    """The tokenizer that `save` wrote into `folder`. Raises UserError if it is damaged, or not what `save` writes."""
    url = storage.join(folder, FILE_NAME)
    data = storage.read_small(url, MAX_BYTES)
    try:
        features = lossy_features(read_definition(data, url))
    except UserError as error:
        raise UserError(f"{error}; remove it and build again") from error
    if features:
        raise UserError(f"{url}: has {' and '.join(features)}, which a build never saves; build the data set again")
    with library_errors(f"{url}: damaged", "remove it and build again"):
        config = json.loads(storage.read_small(storage.join(folder, CONFIG_NAME)))
        roles = {role: config[f"{role}_token"] for role in NAMES if f"{role}_token" in config}
        prepared = PreparedTokenizer(data.decode(), roles, kept_options(config))
        prepared.describe()  # computes all that readers ask for, so that an error has a name
    return prepared


@contextmanager
def library_errors(problem: str, remedy: str) -> Iterator[None]:
    """Turns whatever `tokenizers` raises into a UserError."""
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        # The library raises bare Exception. A panic of it is a BaseException, and its class cannot be imported.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(f"{problem} ({' '.join(str(error).split())[:200]}); {remedy}") from error


def prepare(tokenizer: Tokenizer, config: Mapping[str, Any], name: str) -> PreparedTokenizer:
    """Checks a tokenizer and makes it ready. `config` is the content of its tokenizer_config.json, or empty.

    Raises UserError that names what it lacks.
    """
    tokenizer.no_truncation()
    tokenizer.no_padding()
    problem, remedy = f"--tokenizer {name}: cannot encode a text", "add an unknown token to it, or use another tokenizer"
    with library_errors(problem, remedy):
        if getattr(tokenizer.model, "dropout", None) is not None:
            tokenizer.model.dropout = None  # BPE's, which makes the ids of a text random
        roles = find_roles(tokenizer, config, name)
        # Marks tokens that exist as special; adds no id. One that is marked keeps its flags: RoBERTa's mask takes in a blank.
        marked = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
        tokenizer.add_special_tokens([token for token in roles.values() if token not in marked])
        post_processor = typed_post_processor(tokenizer)
        if post_processor:
            definition = json.loads(tokenizer.to_str()) | {"post_processor": post_processor}
            tokenizer = Tokenizer.from_str(json.dumps(definition))
        text = json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, indent=1)
        prepared = PreparedTokenizer(text, roles, kept_options(config))
        # They encode texts, too, so they are computed here, where an error has a name.
        _ = prepared.templates, prepared.word_flags, prepared.needs_leading_space
    return prepared


def wordpiece(
    vocab: dict[str, int],
    lowercase: bool,
    strip_accents: bool | None = None,
    split_chinese: bool = True,
    tokens: Mapping[str, str] = SPECIAL_TOKENS,
) -> Tokenizer:
    """BERT's tokenizer over a vocabulary: its normalizer, its pre-tokenizer, and its template for pairs.

    `strip_accents` None: as `lowercase`. `split_chinese`: each Chinese character is a word. `tokens`: role -> token.
    """
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token=tokens["unk"], max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=lowercase, strip_accents=strip_accents, handle_chinese_chars=split_chinese
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    cls, sep = tokens["cls"], tokens["sep"]
    if cls in vocab and sep in vocab:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{cls} $A {sep}",
            pair=f"{cls} $A {sep} $B:1 {sep}:1",
            special_tokens=[(cls, vocab[cls]), (sep, vocab[sep])],
        )
    return tokenizer
