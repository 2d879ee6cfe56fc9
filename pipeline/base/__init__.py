"""What every room uses and what knows no noun of the product: errors, files, paths, YAML, the terminal."""
