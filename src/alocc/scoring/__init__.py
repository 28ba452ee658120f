"""One way of scoring: batches in, rows out, whatever computes."""
