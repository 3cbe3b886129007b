"""Coverage: evidence of what is whole, the gaps, and the sources that can fill them. Pure; imports `market`."""
