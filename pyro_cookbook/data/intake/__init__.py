"""From what a reader has to columns of numbers and words: recognised, said, or refused."""
