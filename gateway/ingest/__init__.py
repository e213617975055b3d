"""Ingest: a user's files of products into the catalogue. Run as `python -m gateway.ingest`."""
