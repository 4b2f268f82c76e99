"""The code that makes the pocket models; it is not part of the installed package."""
