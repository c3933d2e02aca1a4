<<<<<<< HEAD
"""From a corpus to a data set, offline, on any number of machines.

__main__   settings -> job (plan, tokenizer) -> build: stages, whose tasks run on engines/
    plan        corpus/: files -> work units and partitions
    tokenize    a unit: corpus/ documents -> tokens/ sentences, ids -> token store in scratch
    pair        a partition: pairing/ sequences, rows, masks -> shards      (partitions, tally)
    commit      output: records of all tasks -> manifest, tokenizer, card
summary    what was built            inspect/   verify, show, report: looking at a data set
=======
"""A corpus -> a data set of packed, masked shards. `python -m prep build` runs it as `build` says.

settings -> job (plan, tokenizer)                 what there is to do
  corpus/    bytes -> documents
  tokens/    documents -> ids in the token store  the tokenize tasks of a unit each
  pairing/   ids -> rows -> shards                the pair tasks of a partition each
tasks, partitions -> stages -> output             made, run on engines/, committed by the manifest
records, tally, progress, card, scratch           what tasks leave, and what is shown and kept of it
  inspect/   verify, show and report a data set that is finished
>>>>>>> main
"""
