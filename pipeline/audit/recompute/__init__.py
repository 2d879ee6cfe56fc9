"""What a release says of its data, computed again from its bytes: a module for each kind of fact. `table` lists them."""
