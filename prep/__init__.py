"""Offline preparation: corpus -> token store -> paired, masked, packed shards and their manifest."""
