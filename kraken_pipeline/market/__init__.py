"""What Kraken trades and how it is counted: pairs, intervals, candles, trades. Pure; imports no other package."""
