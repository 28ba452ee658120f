"""Many processes on many machines, through Ray: the only user of it."""
