"""The contract between `prep`, which writes shards, and `train`, which reads them. See README.md here."""
