"""`kvcache doctor`: finds problems that would stop `up` or keep its service from scoring, and names the remedies."""
