"""Byte-level BPE: a tokenizer that knows every text, blanks and line ends included, trained the same way every time.

The trainer of `tokenizers` gives symbols their ids in the order of a hash map, unless it knows all of them before it starts.
Here they are the 256 bytes, so pairs that are equally frequent are merged in the order of their ids.
"""

import re
from collections.abc import Iterable, Iterator

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from prep.tokens.tokenizer import SPECIAL_TOKENS

_MIN_FREQUENCY = 2  # of a pair that is merged, as GPT-2's trainer has it
# A trainer's time grows with the square of a word's length, and text without blanks is one word.
_LONG_CHARS = 512
_LONG_WORD = re.compile(rf"(\S{{{_LONG_CHARS}}})(?=\S)")


def train_byte_level(texts: Iterable[str], size: int) -> Tokenizer:
    """A byte-level BPE of at most `size` entries; it keeps case, and a blank belongs to the word after it, as in GPT-2.

    The special tokens have BERT's names and ids. `[MASK]` takes in a blank before it, as RoBERTa's does, because the word
    that it stands for has one.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [
        AddedToken(token, special=True, normalized=False, lstrip=role == "mask") for role, token in SPECIAL_TOKENS.items()
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=_MIN_FREQUENCY,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(without_long_words(texts), trainer)
    cls, sep = SPECIAL_TOKENS["cls"], SPECIAL_TOKENS["sep"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (cls, sep)],
    )
    return tokenizer


def without_long_words(texts: Iterable[str]) -> Iterator[str]:
    """Texts with a line end inserted into every long run of characters without a blank."""
    return (_LONG_WORD.sub("\\1\n", text) if len(text) > _LONG_CHARS else text for text in texts)
