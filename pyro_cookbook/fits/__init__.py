"""The Fit: made, kept, repaired."""
