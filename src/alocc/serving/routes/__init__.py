"""What answers each address, a file for each thing that is asked about."""
