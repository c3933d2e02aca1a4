"""Measurements of this project, each run by hand with `python -m`."""
