"""Where step results and runs are kept: the protocols, the records, and the stores."""
