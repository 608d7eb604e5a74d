"""Flow `select`: its configuration, its texts and vectors, and what it keeps of a published version."""
