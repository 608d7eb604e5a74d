"""Flow `score`: what a reference policy makes of the pairs of a published version."""
