"""How good is a method, beyond one data set: protocols, image sets and rivals."""
