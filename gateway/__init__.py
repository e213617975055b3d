"""The public door: searches, items and administration over one cluster."""
