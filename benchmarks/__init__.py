"""Timings beside named peers: ``python -m benchmarks`` runs every row of the table."""
