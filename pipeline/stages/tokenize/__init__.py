"""Documents to rows of token ids."""
