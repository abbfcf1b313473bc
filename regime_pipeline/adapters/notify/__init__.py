"""Channels for alerts: implementations of the ports `Notifier` and `DeadMan`."""
