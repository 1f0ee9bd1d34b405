"""Steps of SVI as graphs of tensor operations: the same numbers, without Pyro's handlers."""
