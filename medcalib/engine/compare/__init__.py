"""Comparing methods over seeds: every cell (a method and a seed) is trained, repaired and scored in its own process.

Importing this package is quick: a cell takes its lock before it imports torch.
"""
