"""The paper's figures by one command, a verdict per claim, and the testbed that its numbers imply."""
