"""What differs between two builds or two checkpoints, where first, and why: `everystep diff`."""
