"""Where in an image a score's evidence lies."""
