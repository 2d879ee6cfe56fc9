"""Pure functions on documents: each decides or rewrites one text and says why in a stable reason string."""
