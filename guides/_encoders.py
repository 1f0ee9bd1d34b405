"""Encoders: networks from a row to the parameters of its factor."""

from models._networks import mlp

__all__ = ["mlp"]
