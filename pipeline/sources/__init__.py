"""Public corpora: one module per kind of source, and below `readers` one per natural document format."""
