"""What all four packages share: user errors, files, tables, figures, command lines. It imports none of them."""
