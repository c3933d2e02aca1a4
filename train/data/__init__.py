"""From shards to the batches of a step.

order        positions of the run -> row groups and rows: a pure function of data set, seed and batch
row_groups   row groups -> decoded rows, by threads, from a disk, a bucket or the cache
reader       rows of a rank's next steps, gathered ahead of need
batch        rows -> the tensors of a micro-batch, in one block of memory (layout)
feeding      packs the next step in a thread, and moves it to the device
shard_uses   when a machine needs which shard -> prefetch: fetches it in time -> cache, leases: shards on a local disk
frequencies  how often each token occurs: the baseline of scores
"""
