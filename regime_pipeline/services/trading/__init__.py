"""The use-cases of the order path: the portfolio tick, the executor, booking, reconciliation, protections and the kill switch."""
