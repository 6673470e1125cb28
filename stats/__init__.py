"""Pure statistical inference on mergeable totals."""
