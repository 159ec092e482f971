"""How explanatory graphs are learnt, asked and edited."""
