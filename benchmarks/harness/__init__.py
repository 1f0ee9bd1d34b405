"""How rows are run, and how the table and its figure are made; `row.py` says what a row is."""
