"""From totals to the allocation that requests draw from, and its publication to every server."""
