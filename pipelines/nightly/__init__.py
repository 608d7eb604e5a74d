"""The whole card in one run: stages that are flows of their own, what each starts from, and the night's report."""
