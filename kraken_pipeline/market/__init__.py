"""The market model: pairs, intervals, candles and trades. Pure; imports no other package."""
