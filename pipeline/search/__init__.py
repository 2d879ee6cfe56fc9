"""Runs of token ids in the training rows: where they are, in which documents, and when which model read them."""
