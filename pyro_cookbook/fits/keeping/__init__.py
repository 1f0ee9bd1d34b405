"""Fits in files: written whole, read without running code, refused where they are damaged."""
