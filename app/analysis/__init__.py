"""Analysis of experiments: totals become the readout that people and programs act on."""
