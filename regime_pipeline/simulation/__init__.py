"""A simulated venue: loopback HTTP and WebSocket that speak the venues' own formats, fed from any `BarSource`, with scripted faults."""
