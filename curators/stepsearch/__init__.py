"""Search over reasoning steps: trees, their values, and the pairs and labels that come out of them.

Pure and synchronous but for three rooms: `proposals` asks an engine for the steps below a node and a verifier which answers are right,
`evaluation` asks models and functions what steps are worth, and `driver` drives many trees at once: start a simulation, let it descend,
expand the node where it stops, back it up.
"""
