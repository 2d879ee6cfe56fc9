"""What a reader runs on a release folder. Needs neither torch nor DVC, and never opens an address from a manifest."""
