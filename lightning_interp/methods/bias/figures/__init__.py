"""Context-bias diagnostics to look at."""
