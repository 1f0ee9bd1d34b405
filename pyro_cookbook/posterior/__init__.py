"""What a fit says of the posterior: weights, chains, NUTS, trees, predictions."""
