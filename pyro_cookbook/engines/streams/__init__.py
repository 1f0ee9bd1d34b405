"""Rows that are not in memory, and mini-batches that several processes share."""
