"""Disputes: two runs that should be equal, narrowed to the first operator that differs."""
