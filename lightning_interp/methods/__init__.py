"""The methods, a package each, over a core that knows none of them."""
