"""What figures are made with; knows no result."""
