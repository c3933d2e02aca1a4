"""The gate: a data set of a stranger is checked here before anything uses it.

    manifest.json -> parse (fields)  -> check_manifest (manifest): types, names, bounds, counts that agree
    its shards    -> columns, listed or from shards.npz -> check_columns (shards): the same of each shard, 4096 at a time
    a shard       -> pages (Parquet) or tar: sizes are bounded by Limits before anything is allocated or inflated
    decoded rows  -> check_rows (rows): what compiled loops and models rely on

Inside the gate nothing is checked twice. docs/security.md says what this promises.
"""
