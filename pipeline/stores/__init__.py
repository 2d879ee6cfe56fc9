"""Stores: the places where the files of a release are, and the one way over a network."""
