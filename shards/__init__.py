"""The contract between `prep`, which writes a data set, and `train`, which reads it. README.md describes the format.

manifest.json   -> manifest: Manifest, ShardInfo, RowGroup    opened by dataset.open_data_set
a shard's bytes <-> formats (parquet, tar) <-> schema: Rows   checked by checks
Rows + masking (mask_units, mask_spans, randomness) -> masked Rows   on writing or on reading
template        the special tokens around segments
storage/        URLs: disks, buckets, web servers
report/         a page of findings, figures and charts, as HTML or for a terminal
command/        settings, flags, messages and exit codes
"""
