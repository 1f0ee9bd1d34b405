"""Exact answers, by another route than the code under test takes."""
