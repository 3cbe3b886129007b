"""What Kraken publishes and how it is read: archives now, the REST API with it. Stores nothing."""
