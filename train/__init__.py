"""The trainer's package: it streams the shards that `prep` writes, by the contract in `shards`."""
