"""What a release states and its bytes give again: a module for each kind of fact. `table` lists them."""
