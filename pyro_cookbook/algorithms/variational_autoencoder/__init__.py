"""Variational auto-encoders: bounds, refinement, and the linear case in closed form."""
