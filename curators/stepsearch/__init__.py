"""Search over reasoning steps: trees, their values, and the pairs and labels that come out of them.

Pure and synchronous but for two rooms: `proposals` asks an engine for the steps below a node and a verifier for what answers are worth,
and `driver` drives many trees at once: start a simulation, let it descend, expand the node where it stops, back it up.
"""
