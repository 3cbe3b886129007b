"""Reading: candles of any interval for notebooks and files, with what is known of the time between them."""
