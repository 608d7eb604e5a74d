"""Which rows to keep of many: one signature for every selector, nested ladders of sizes, and the learning curve over them.

`selectors.select` takes rows, embeddings, scores where a selector needs them, and a budget. No selector is best everywhere, and several
rank in directions on which the literature disagrees: run `random` beside any of them. See docs/selection.md.
"""
