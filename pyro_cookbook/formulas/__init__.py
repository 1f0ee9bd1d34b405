"""Formulas: a table and a line of words become a design, and a posterior in the table's units."""
