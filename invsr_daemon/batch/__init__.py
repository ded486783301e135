"""`invsr-daemon process`: one command's inputs, from start to end."""
