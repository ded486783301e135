"""`invsr-daemon doctor`: what is wrong with this machine and these settings, and how to mend it."""
