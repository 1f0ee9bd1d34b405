"""One file a topic: its recipe."""
