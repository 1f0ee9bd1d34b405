"""A Pyro function on its data: its sites, draws from it, its density."""
