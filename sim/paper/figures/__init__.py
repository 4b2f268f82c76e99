"""The paper's figures and tables, one file each, and their shared drawing code."""
