"""Train an attacker who rebuilds photos from payloads, and measure how much of a photo comes back."""
