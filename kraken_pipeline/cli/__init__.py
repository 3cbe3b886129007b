"""The command line: commands, their options, and what they print at any width. Decides nothing."""
