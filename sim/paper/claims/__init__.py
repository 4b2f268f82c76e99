"""The paper's statements, and how our value of each is computed."""
