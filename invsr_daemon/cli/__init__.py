"""What a person types: commands, options, exit codes. A file for each noun."""
