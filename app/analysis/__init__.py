"""From totals to the readout that people and programs act on."""
