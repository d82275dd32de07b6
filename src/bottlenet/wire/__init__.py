"""What crosses the network: symbols <-> picture <-> payload <-> frame, and the answer. No torch here."""
