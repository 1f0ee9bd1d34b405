"""Calculus of variations: maximum entropy, and the general mean-field update."""
