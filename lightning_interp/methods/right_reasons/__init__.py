"""Training that looks at the region that should decide."""
