"""Evidence about one metric of one variant against the control."""
