"""Token ids as text for the eye, whatever the kind of tokenizer."""

from typing import NamedTuple

from tokenizers import decoders

from prep.tokens.tokenizer import PreparedTokenizer
from shards.command.console import printable
from shards.mask_units import STARTS_WORD


class TokenText(NamedTuple):
    """What a token reads like: its characters, whether it goes on from the token before it, and whether it is special."""

    text: str
    goes_on: bool
    is_special: bool


def token_texts(tokenizer: PreparedTokenizer) -> dict[int, TokenText]:
    """Id -> text of every token, safe to print."""
    special = set(tokenizer.special_ids.values())
    flags = tokenizer.word_flags
    byte_level = '"ByteLevel"' in tokenizer.json_text
    texts = {}
    for token, number in tokenizer.vocab.items():
        if number in special:
            texts[number] = TokenText(printable(token), False, True)
            continue
        goes_on = flags is not None and not flags[number] & STARTS_WORD
        plain = decoders.ByteLevel().decode([token]) if byte_level else token.replace("\u2581", " ").removeprefix("##")
        texts[number] = TokenText(printable(plain.strip(" ") or "\u2423"), goes_on, False)
    return texts
