"""One job from its plan to its published result."""
