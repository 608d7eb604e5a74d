"""Pages about a version, each self-contained: its quality report and its search trees."""
