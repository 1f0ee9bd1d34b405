"""The chapter's classical algorithms, in closed form and vectorised: EM and variational Bayes."""
