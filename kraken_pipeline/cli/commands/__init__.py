"""The commands, each module imported only when a command of it is invoked."""
