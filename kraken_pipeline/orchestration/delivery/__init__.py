"""The delivery of steps to Celery's workers: who submits them, who takes them, and what the history says of them."""
