"""What a fitted recipe says: of the whole table, and of rows it has not seen; by topic."""
