"""What the paper says, statement by statement, and how our value of each is found."""
