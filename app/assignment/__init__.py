"""Assignment: the variant of a request, drawn with a known propensity and recorded."""
