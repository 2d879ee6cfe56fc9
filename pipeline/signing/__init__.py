"""Signatures of a release: keys, envelopes, and what is said in them."""
