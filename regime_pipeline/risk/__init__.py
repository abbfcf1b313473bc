"""What may be traded: limits, protections, the gate before every order, the kill switch and the live arm. Pure."""
