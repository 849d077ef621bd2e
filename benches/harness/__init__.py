"""What the end-to-end benchmarks share: synthetic models, peers, and how results are shown."""
