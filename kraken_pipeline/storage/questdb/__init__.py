"""The QuestDB tables, and the client that writes and reads them."""
