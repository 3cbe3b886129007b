"""One suite for every database that a catalog can be."""
