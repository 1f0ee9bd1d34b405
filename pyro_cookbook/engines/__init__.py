"""From a program to a fitted guide."""
