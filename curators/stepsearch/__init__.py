"""Search over reasoning steps: trees, their values, and the pairs and labels that come out of them.

Everything here is pure and synchronous. Who samples steps and asks verifiers drives a `Tree` from outside:
start a simulation, let it descend, expand the node where it stops, back it up.
"""
