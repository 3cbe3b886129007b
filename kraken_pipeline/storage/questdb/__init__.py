"""QuestDB: its tables, and the client that writes and reads them."""
