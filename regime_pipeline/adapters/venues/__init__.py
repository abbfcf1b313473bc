"""Sources of market data: implementations of the ports `BarSource` and `DominanceSampler`."""
