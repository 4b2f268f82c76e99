"""The testbeds that the paper's numbers imply."""
