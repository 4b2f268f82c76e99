"""The expert cache that both drivers share: what is on which GPU, what is copied next, what is evicted."""
