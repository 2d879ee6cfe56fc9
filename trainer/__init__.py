"""Trains models from published rows: the same bits whatever happens."""
