"""The delivery of steps to other processes: who submits them, who takes them, and what the history says of them."""
