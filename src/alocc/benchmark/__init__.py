"""How good is a method, beyond one data set: protocols and baselines."""
