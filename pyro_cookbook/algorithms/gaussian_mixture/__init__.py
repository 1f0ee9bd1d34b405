"""The Gaussian mixture: EM, and variational Bayes."""
