"""The catalogue: items by id, kept in SQLite or PostgreSQL."""
