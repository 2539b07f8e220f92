"""How fast the ledger is, as ratios to a bare loop that runs beside it."""
