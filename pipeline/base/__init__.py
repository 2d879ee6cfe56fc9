"""Tools that every package uses and that know nothing of the product: errors, files, paths, YAML, the terminal."""
