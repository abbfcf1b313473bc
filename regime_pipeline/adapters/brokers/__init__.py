"""Brokers: the paper broker on its own tables, and real venues through ccxt. Both implement `ports.Broker`."""
