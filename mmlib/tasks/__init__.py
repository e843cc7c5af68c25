"""Tasks: what is trained on which loss, one module a task."""
