"""What the job store on PostgreSQL is made of: connections, the line for news and leases, rows, and the schema."""
