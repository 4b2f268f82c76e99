"""The paper's figures and tables, a file each, and the pictures that they share."""
