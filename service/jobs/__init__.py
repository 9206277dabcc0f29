"""Jobs: the value, the port to their records, and the stores."""
