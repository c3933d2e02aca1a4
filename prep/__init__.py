"""A corpus -> a data set of packed, masked shards. `python -m prep build` runs it as `build` says.

settings -> job (plan, tokenizer)                 what there is to do
  corpus/    bytes -> documents
  tokens/    documents -> ids in the token store  the tokenize tasks of a unit each
  pairing/   ids -> rows -> shards                the pair tasks of a partition each
tasks, partitions -> stages -> output             made, run on engines/, committed by the manifest
records, tally, progress, card, scratch           what tasks leave, and what is shown and kept of it
  inspect/   verify, show and report a data set that is finished
"""
