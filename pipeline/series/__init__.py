"""Anybody's checkpoint series, read from metadata alone: what is published under which step, and what is wrong."""
