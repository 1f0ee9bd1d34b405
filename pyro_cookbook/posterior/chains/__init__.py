"""Hamiltonian Monte Carlo, many chains at once: one trajectory, and short chains of many."""
