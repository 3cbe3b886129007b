"""What is known to be whole, what is missing, and where the missing can come from. Pure; imports `market`."""
