"""Running attempts: the supervisor, the processes, and what they may use."""
