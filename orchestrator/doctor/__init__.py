"""`kvcache doctor`: looks for what would stop `up` or keep its service from scoring, and says what to do."""
