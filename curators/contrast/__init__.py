"""Contrastive synthesis: pairs that differ in one known thing, each with the outcome of its own checker (docs/contrast.md).

Every synthesiser is `rows, *, config, … → contrasts`: rows are prompts, answers (`candidates.answers`) or pairs, an engine and a checker
come in as arguments, and every attempt is a row with a state. `candidates.contrast_pairs` takes the rows that passed.
"""
