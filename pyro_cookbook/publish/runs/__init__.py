"""Runs in folders: written whole, read back, applied to new rows, and made again."""
