"""Sigmoid belief networks: enumeration, and learning model and recognition network together."""
