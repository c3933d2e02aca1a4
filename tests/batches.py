"""Batches of random masked rows, and a small BERT, for tests."""

import torch
from datasets_of_rows import MAX_SEQ_LEN, ROW_TOKENS, random_rows
from rows_of_ids import SPECIAL, VOCAB_SIZE, keys_of, masking
from transformers import BertConfig, BertForPreTraining

from shards.masking import mask_rows
from shards.schema import Rows
from train.data.batch import PackedBatch, pack_batch
from train.data.layout import Layout, Shape
from train.step import Counts

SHAPE = Shape(rows=6, tokens=ROW_TOKENS, longest=MAX_SEQ_LEN, sequences=4, masked=16)


def masked_rows(count: int, seed: int = 0, packed: bool = True) -> Rows:
    rows = random_rows(count, seed, packed)
    return mask_rows(rows, keys_of(rows, seed), masking())


def pack(rows: Rows, shape: Shape = SHAPE, layout: Layout = "padded", num_slots: int = 0) -> PackedBatch:
    return pack_batch(rows, shape, SPECIAL["pad"], layout, num_slots=num_slots)


def bert(name: str = "sdpa", dropout: float = 0.0, seed: int = 0) -> BertForPreTraining:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=ROW_TOKENS,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=0.2,  # so that attention is far from uniform
    )
    config._attn_implementation = name
    return BertForPreTraining(config)


def counts_of(*batches: PackedBatch) -> Counts:
    return Counts(*(sum(getattr(b, name) for b in batches) for name in ("tokens", "masked", "pairs", "attended", "nearby")))
