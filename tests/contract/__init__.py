"""One suite per port, run against every adapter. A new adapter adds a line to the table at the top of the suite."""
