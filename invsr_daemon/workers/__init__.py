"""What runs inside the processes that work for the parent."""
