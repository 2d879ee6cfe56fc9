"""Deduplicate all sources together."""
