"""Fault injection over the offline server, from a seed: `make chaos`."""
