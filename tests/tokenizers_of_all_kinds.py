"""Small tokenizers of every kind, with the special tokens and templates of the models that are known for them."""

from collections.abc import Callable, Sequence

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

NAMES = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def roberta(texts: Sequence[str]) -> Tokenizer:
    """Byte-level BPE; `<s> A </s></s> B </s>`, all of one token type."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1500, special_tokens=NAMES, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(texts, trainer)
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return made


def albert(texts: Sequence[str]) -> Tokenizer:
    """Unigram as SentencePiece has it; `[CLS] A [SEP] B [SEP]`, and ids that are not BERT's."""
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    special = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.UnigramTrainer(vocab_size=1000, special_tokens=special, unk_token="<unk>", show_progress=False)
    made.train_from_iterator(texts, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made


def openai(texts: Sequence[str]) -> Tokenizer:
    """BPE whose tokens say where a word ends; templates of our own, whose names no list knows."""
    made = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.BPEDecoder()
    special = ["<unk>", "<nothing>", "<start>", "<split>", "<end>", "<hidden>"]
    trainer = trainers.BpeTrainer(vocab_size=1200, special_tokens=special, end_of_word_suffix="</w>", show_progress=False)
    made.train_from_iterator(texts, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>",
        pair="<start> $A <split> $B:1 <end>:1",
        special_tokens=[("<start>", 2), ("<split>", 3), ("<end>", 4)],
    )
    return made


def llama(texts: Sequence[str]) -> Tokenizer:
    """BPE of SentencePiece's kind, whose normalizer writes blanks as marks and sets one before the text."""
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    made.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=1000, special_tokens=NAMES, show_progress=False)
    made.train_from_iterator((text[:200] for text in texts[:200]), trainer)
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return made


OPENAI_CONFIG = '{"pad_token": "<nothing>", "mask_token": {"content": "<hidden>"}}'
KINDS: dict[str, Callable[[Sequence[str]], Tokenizer]] = {
    "roberta": roberta,
    "albert": albert,
    "openai": openai,
    "llama": llama,
}
