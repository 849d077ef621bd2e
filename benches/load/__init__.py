"""What `benches/serve.py` is made of."""
