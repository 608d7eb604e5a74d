"""Flow `contrast`: its configuration, its methods, the rows that they start from, and what becomes of their attempts."""
