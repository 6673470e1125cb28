"""Units: metrics of the touched units, their cells and their series."""
