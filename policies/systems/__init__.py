"""Complete policies: one file per published system and per bound."""
