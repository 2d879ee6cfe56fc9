"""What a project will cost before anything runs: `everystep plan`."""
