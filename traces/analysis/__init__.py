"""What a trace tells about routing: entropy, similarity, reuse, popularity."""
