"""What another machine would change: presets of sweeps, and what they say."""
