"""Flow `steps`: its configuration, its searches, and what becomes of their trees."""
