"""InvSR: arbitrary-steps super-resolution by diffusion inversion."""
