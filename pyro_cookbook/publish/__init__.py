"""All that leaves the house: outcomes, the report, figures, notebooks."""
