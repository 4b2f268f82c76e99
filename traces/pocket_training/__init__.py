"""Code that trains the pocket models; not part of the installed package."""
