"""Fifth step: draws beside their probabilities, for the check of the sample ratio."""
