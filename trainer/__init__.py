"""The trainer: from published rows to models, with the same bits on every run."""
