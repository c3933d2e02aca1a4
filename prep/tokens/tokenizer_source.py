"""`--tokenizer NAME` -> a tokenizer, from a file, a folder or the hub."""

import json
import os
import re
from typing import Any

from tokenizers import Tokenizer

from prep.tokens.tokenizer import CONFIG_NAME, FILE_NAME, SPECIAL_TOKENS, VOCAB_NAME, PreparedTokenizer, prepare, wordpiece
from shards import storage
from shards.errors import UserError

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def load_tokenizer(name: str, cased: bool) -> PreparedTokenizer:
    """The tokenizer of a tokenizer.json, a vocab.txt, a folder with one of them, or a repository on the hub.

    `cased` applies to a vocab.txt only. Raises UserError.
    """
    if storage.find(name):
        return prepare(_read_tokenizer(name, cased), _read_config(_folder_of(name)), name)
    for file in (FILE_NAME, VOCAB_NAME):
        if storage.find(storage.join(name, file)):
            config = _read_config(name)
            tokenizer = _read_tokenizer(storage.join(name, file), cased or config.get("do_lower_case") is False)
            return prepare(tokenizer, config, name)
    if storage.list_files(name):
        raise UserError(f"--tokenizer {name}: the folder has neither {FILE_NAME} nor {VOCAB_NAME}")
    if not _HUB_NAME.fullmatch(name) or name.endswith((".json", ".txt")):
        raise UserError(f"--tokenizer {name}: no such file or folder, and not a name on the hub")
    return prepare(*_fetch_from_hub(name), name)


def _folder_of(url: str) -> str:
    return url.rpartition("/")[0] or "."


def _read_config(folder: str) -> dict[str, Any]:
    """The content of the folder's tokenizer_config.json; empty if there is none."""
    url = storage.join(folder, CONFIG_NAME)
    try:
        config = json.loads(storage.read_bytes(url)) if storage.find(url) else {}
    except ValueError as error:
        raise UserError(f"{url}: not JSON: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"{url}: a {type(config).__name__}, not an object with fields; correct or remove it")
    return config


def _read_tokenizer(url: str, cased: bool) -> Tokenizer:
    data = storage.read_bytes(url)
    try:
        if not url.endswith(".txt"):
            return Tokenizer.from_str(data.decode())
        tokens = data.decode().split("\n")
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"--tokenizer {url}: not a {FILE_NAME} or {VOCAB_NAME} that can be read: {error}") from error
    tokens = [token.rstrip("\r") for token in (tokens[:-1] if not tokens[-1] else tokens)]
    if len(set(tokens)) != len(tokens) or SPECIAL_TOKENS["unk"] not in tokens:
        raise UserError(f"--tokenizer {url}: not a vocabulary: it must have one token per line, none twice, and [UNK]")
    return wordpiece({token: number for number, token in enumerate(tokens)}, lowercase=not cased)


def _fetch_from_hub(name: str) -> tuple[Tokenizer, dict[str, Any]]:
    """The tokenizer of a repository on the hub, and its configuration."""
    # The hub's client prints each of its retries twice. It reads this when it is imported.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        tokenizer = Tokenizer.from_pretrained(name)
        try:
            config = _read_config(_folder_of(hf_hub_download(name, CONFIG_NAME)))
        except EntryNotFoundError:
            config = {}
    except UserError:
        raise
    except Exception as error:  # the library raises bare Exception
        remedy = "check the name and the network, or set --tokenizer to a folder, a tokenizer.json or a vocab.txt"
        raise UserError(f"--tokenizer {name}: cannot be fetched from the hub ({type(error).__name__}); {remedy}") from error
    return tokenizer, config
