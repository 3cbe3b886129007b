"""Where things lie: the lake of candles, the catalog of evidence, locks. Small and passed in; decides nothing."""
