"""What the trainer promises on a GPU, run on one: `make test-gpu` (docs/gpu.md)."""
