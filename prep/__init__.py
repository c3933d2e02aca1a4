"""From a corpus to a data set, offline, on any number of machines.

__main__   settings -> job (plan, tokenizer) -> build: stages, whose tasks run on engines/
    plan        corpus/: files -> work units and partitions
    tokenize    a unit: corpus/ documents -> tokens/ sentences, ids -> token store in scratch
    pair        a partition: pairing/ sequences, rows, masks -> shards      (partitions, tally)
    commit      output: records of all tasks -> manifest, tokenizer, card
summary    what was built            inspect/   verify, show, report: looking at a data set
"""
