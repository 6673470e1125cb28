"""The hot path: which variant serves this request, drawn with a known propensity and recorded."""
