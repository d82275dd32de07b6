"""An attacker, and what it rebuilds from what is sent."""
