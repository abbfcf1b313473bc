"""What a position holds, may buy and must sell: plans of at most one action per position and bar."""
