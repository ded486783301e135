"""What passes between the parent and its processes."""
