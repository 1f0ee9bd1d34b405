"""Many chains from a fit's draws, until they agree."""
