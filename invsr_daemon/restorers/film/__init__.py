"""Films through a restorer: noise follows the motion, frames are fused, repeats are not computed again."""
