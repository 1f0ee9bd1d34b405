"""The log density of a program: site by site, unconstrained, with sums, as a graph."""
