"""Whoever labels: judges alone and in panels, reward models, rationales; judges tried and attacked; and pairs made of what they say."""
