"""What all four packages share: user errors, files, tables, figures, command-line glue. Imports none of them."""
