"""A client of the server that ``alocc serve`` starts."""
