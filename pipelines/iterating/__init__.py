"""Rounds of sampling and training, each on the policy that the round before has trained."""
