"""`--tokenizer NAME` -> a tokenizer, from a file, a folder or the hub."""

import json
import os
import re
from typing import Any

from tokenizers import Tokenizer

from prep.tokens.special_tokens import configured_token
from prep.tokens.tokenizer import (
    CONFIG_NAME,
    FILE_NAME,
    SPECIAL_TOKENS,
    VOCAB_NAME,
    PreparedTokenizer,
    library_errors,
    prepare,
    wordpiece,
)
from prep.tokens.tokenizer_config import bert_flags
from shards import storage
from shards.command.console import say
from shards.errors import UserError
from shards.tokenizer_check import MAX_BYTES, follow_flags, lossy_features, read_definition

# Older releases of transformers keep the names of the special tokens, and tokens that were added, in files of their own.
_SPECIAL_NAME, _ADDED_NAME = "special_tokens_map.json", "added_tokens.json"
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def load_tokenizer(name: str, cased: bool) -> PreparedTokenizer:
    """The tokenizer of a tokenizer.json, a vocab.txt, a folder with one of them, or a repository on the hub.

    `cased` applies to a vocab.txt only. Raises UserError.
    """
    if storage.find(name):
        return _load(name, name, cased)
    for file in (FILE_NAME, VOCAB_NAME):
        if storage.find(storage.join(name, file)):
            return _load(name, storage.join(name, file), cased)
    if storage.list_files(name):
        raise UserError(f"--tokenizer {name}: the folder has neither {FILE_NAME} nor {VOCAB_NAME}")
    if not _HUB_NAME.fullmatch(name) or name.endswith((".json", ".txt")):
        raise UserError(f"--tokenizer {name}: no such file or folder, and not a name on the hub")
    return _load(name, _fetch_from_hub(name), cased)


def _load(name: str, url: str, cased: bool) -> PreparedTokenizer:
    """The tokenizer of the file at `url`, with what the files beside it say. `name` is for messages."""
    folder = url.rpartition("/")[0] or "."
    config = _read_object(folder, _SPECIAL_NAME) | _read_object(folder, CONFIG_NAME)
    if not url.endswith(".txt"):
        return prepare(_read_tokenizer(url, config), config, name)
    added = _read_object(folder, _ADDED_NAME).keys() | _added_tokens(config)
    return prepare(_read_vocabulary(url, cased, config, added), config, name)


def _read_object(folder: str, name: str) -> dict[str, Any]:
    """The content of a JSON file in the folder; empty if there is no such file."""
    url = storage.join(folder, name)
    try:
        value = json.loads(storage.read_small(url)) if storage.find(url) else {}
    except (ValueError, RecursionError) as error:
        raise UserError(f"{url}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{url}: a {type(value).__name__}, not an object with fields; correct or remove it")
    return value


def _added_tokens(config: dict[str, Any]) -> set[str]:
    """The tokens that a configuration adds to the vocabulary, or describes."""
    tokens = config.get("added_tokens_decoder")
    return (
        {str(token.get("content")) for token in tokens.values() if isinstance(token, dict)}
        if isinstance(tokens, dict)
        else set()
    )


def _read_tokenizer(url: str, config: dict[str, Any]) -> Tokenizer:
    """The tokenizer of a tokenizer.json, with the flags of the configuration."""
    original = read_definition(storage.read_small(url, MAX_BYTES), f"--tokenizer {url}")
    definition = follow_flags(original, config, CONFIG_NAME)
    if definition != original:
        say(f"--tokenizer {url}: its {CONFIG_NAME} changes its normalizer to {json.dumps(definition['normalizer'])}")
    for feature in lossy_features(definition):
        if feature != "dropout":  # `prepare` switches that off
            definition[feature] = None
    with library_errors(f"--tokenizer {url}: not a {FILE_NAME} that can be read", "choose another tokenizer"):
        return Tokenizer.from_str(json.dumps(definition))  # of what was checked, not the file's own text


def _read_vocabulary(url: str, cased: bool, config: dict[str, Any], added: set[str]) -> Tokenizer:
    """BERT's tokenizer over a vocab.txt, with the flags of the configuration."""
    try:
        tokens = storage.read_small(url, MAX_BYTES).decode().split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"--tokenizer {url}: not a {VOCAB_NAME} that can be read: {error}") from error
    tokens = [token.rstrip("\r") for token in (tokens[:-1] if not tokens[-1] else tokens)]
    roles = {role: configured_token(config, role) or token for role, token in SPECIAL_TOKENS.items()}
    if len(set(tokens)) != len(tokens) or roles["unk"] not in tokens:
        raise UserError(f"--tokenizer {url}: not a vocabulary: it must have one token per line, none twice, and {roles['unk']}")
    lacking = sorted(added - {*tokens})
    if lacking:
        raise UserError(
            f"--tokenizer {url}: the files beside it add {len(lacking)} tokens, such as {lacking[0]!r}; save the tokenizer "
            f"with transformers as a {FILE_NAME}"
        )
    flags = bert_flags(config, f"{url.rpartition('/')[0] or '.'}/{CONFIG_NAME}")
    vocab = {token: number for number, token in enumerate(tokens)}
    lowercase = flags["do_lower_case"] and not cased
    return wordpiece(vocab, lowercase, flags["strip_accents"], flags["tokenize_chinese_chars"], roles)


def _fetch_from_hub(name: str) -> str:
    """The place of the tokenizer.json or vocab.txt of a repository on the hub, with the files beside it fetched, too."""
    # The hub's client prints each of its retries twice. It reads this when it is imported.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    def fetch(file: str) -> str | None:
        try:
            return hf_hub_download(name, file)
        except LocalEntryNotFoundError:
            if constants.HF_HUB_OFFLINE:
                return None  # not in the cache, which is all there is
            raise
        except EntryNotFoundError:
            return None

    try:
        place = fetch(FILE_NAME) or fetch(VOCAB_NAME)
        for file in (CONFIG_NAME, _SPECIAL_NAME, _ADDED_NAME) if place else ():
            fetch(file)
    except Exception as error:  # of many kinds
        remedy = "check the name and the network, or set --tokenizer to a folder, a tokenizer.json or a vocab.txt"
        raise UserError(f"--tokenizer {name}: cannot be fetched from the hub ({type(error).__name__}); {remedy}") from error
    if place is None:
        reason = "is not in the hub's cache" if constants.HF_HUB_OFFLINE else f"has neither {FILE_NAME} nor {VOCAB_NAME}"
        raise UserError(f"--tokenizer {name}: cannot be fetched from the hub: it {reason}; use a folder or a vocab.txt instead")
    return place
