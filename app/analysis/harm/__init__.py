"""Proofs of harm and safety: one variant against the control, on one metric, at one margin and level."""
