"""The only module of a folder that is on the path of the process which workers are forked from. See `prep.engines.forks`."""
