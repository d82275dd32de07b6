"""Training of units, and of the tails behind them."""
