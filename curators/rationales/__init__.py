"""Why the chosen answer is better than the rejected one: rationales written for pairs, checked, and never used unless every check passed.

The method is that of "Data-Centric Human Preference with Rationales" (arXiv 2407.14477): one text a pair, general or detailed, which a
trainer learns beside the preference. Its quality checks are our own.
"""
