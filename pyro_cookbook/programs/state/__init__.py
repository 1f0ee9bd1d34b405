"""What is the caller's is left as it was: state, modules, data; and what is shown meanwhile."""
