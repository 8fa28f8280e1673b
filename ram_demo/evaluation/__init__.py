"""Measuring: what an aligner does to answers."""
