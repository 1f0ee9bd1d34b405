"""Sparse coding: FISTA, and dictionary learning."""
