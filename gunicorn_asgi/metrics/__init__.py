"""Numbers for operators: counted by each worker, in memory that all share, on one page."""
